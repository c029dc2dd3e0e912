"""What a fine-tuning run tells its tracker (`--logger`): first all that was resolved, at last what it found."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transfer.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from datamodules.datamodule import DataModule
    from transfer.commands.finetune_build import Prepared
    from transfer.runs.folder import RunFolder
    from transfer.runs.results import Results
    from transfer.runs.test_record import SavedPredictions
    from transfer.tracking.tracker import Tracker

_SIDE = 160  # pixels of the longer side of a photo that a tracker shows


@contextmanager
def follow(prepared: Prepared, run: RunFolder) -> Iterator[Tracker]:
    """Yield what follows the run, in the main process alone; in the others it is nothing.

    Raises:
        MissingData: the service cannot be reached or refuses the run.
    """
    from transfer.lightning import pl
    from transfer.runs.folder import is_main_process
    from transfer.runs.title import run_group, run_name
    from transfer.tracking.registry import tracked
    from transfer.tracking.tracker import Facts, Tracker

    config = prepared.config
    if config.logger == "csv" or not is_main_process():
        yield Tracker([] if config.logger == "csv" else [pl.loggers.logger.DummyLogger()])
        return
    described = {"dataset": config.dataset, "backbone": prepared.start.variant.name, "method": config.method}
    tags = {name: value for name, value in {**described, "protocol": config.protocol}.items() if value}
    settings = resolved_settings(prepared, run)
    facts = Facts(run.path, run_name(run.path), run_group(), tags, settings, config.log_model, config.log_photos)
    with tracked(config.logger, facts) as tracker:
        yield tracker


def resolved_settings(prepared: Prepared, run: RunFolder) -> dict[str, Any]:
    """Return the configuration with the values that its open fields come to, and what else decides the run."""
    from transfer.environment import command_words, environment

    config, start, dataset = prepared.config, prepared.start, prepared.data.dataset
    global_batch_size = config.data.batch_size * config.trainer.accumulate_grad_batches * prepared.num_processes
    return {
        **config.to_dict(),
        "image_size": start.preprocessing.image_size,
        "dropout": start.variant.dropout_rate if config.dropout is None else config.dropout,
        "monitor": prepared.monitor,
        "global_batch_size": global_batch_size,
        "num_processes": prepared.num_processes,
        "start": start.provenance() or {"name": "random"},
        "num_parameters": sum(p.numel() for p in prepared.module.classifier.parameters()),
        "num_classes": dataset.num_classes,
        "num_images": dataset.split_sizes,
        "fingerprint": dataset.fingerprint,
        "run_dir": str(run.path),
        "command": shlex.join(command_words()),
        **environment(),
    }


def conclude(tracker: Tracker, prepared: Prepared, results: Results) -> None:
    """Tell a tracker what the run found, with its confusions and worst mistakes on test if it has read all, or on val.

    Of the mistakes it gets small copies, if photos may leave the run's folder.
    """
    from transfer.run_files import PREDICTIONS, VAL_PREDICTIONS
    from transfer.runs.test_record import read_predictions
    from transfer.tracking.mistakes import count_confusions, find_mistakes
    from transfer.tracking.tracker import Outcome

    if not tracker.loggers:
        return
    files = {"test": PREDICTIONS, "val": VAL_PREDICTIONS}
    answered = (name for name, file in files.items() if name in results.metrics and (results.run_dir / file).exists())
    split = next(answered, None)
    if split is None:
        return tracker.conclude(Outcome(results))
    found = read_predictions(results.run_dir, split)
    picture = _pictures(prepared.data, split, found) if prepared.config.log_photos else lambda place: None
    tracker.conclude(Outcome(results, count_confusions(found), find_mistakes(found, picture), split))


def _pictures(data: DataModule, split: str, found: SavedPredictions) -> Callable[[int], Image | None]:
    """Return what makes a small copy of an image of a split, by its place in what was said of it."""
    from PIL import Image

    from transfer.images.decode import decode_image
    from transfer.runs.test_record import text_array

    images = data.dataset.split(split)
    names = text_array(images.image_names()).tolist() if found.paths else []
    places = {name: place for place, name in enumerate(names)}

    def picture(place: int) -> Image.Image | None:
        try:
            image = Image.fromarray(decode_image(images.encoded(places[found.paths[place]]), images.decoding))
        except (UserError, OSError, LookupError):
            return None
        image.thumbnail((_SIDE, _SIDE))
        return image

    return picture
