"""Fine-tuning from the probe's head (LP-FT) on the probe's own folds, on as many of them as the time allows.

A fold is predicted by the network as training leaves it: the best epoch would be chosen on the very images that it is
measured on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.datamodule import DataModule
from datamodules.loading.workers import count_workers
from transfer.commands.choose.budget import Budget
from transfer.commands.choose.candidates import Candidate, Tried
from transfer.commands.choose.decision import Tuned, compare_methods
from transfer.commands.choose.images import Images
from transfer.commands.console import find_flags, name_flags
from transfer.commands.finetune import finetune
from transfer.config.auto import choose_lpft
from transfer.config.choose_schema import ChooseConfig
from transfer.config.command_line import build_parser
from transfer.config.durations import clock, format_duration
from transfer.config.parsing import unflatten
from transfer.config.schema import FinetuneConfig
from transfer.costs.speed import measure
from transfer.errors import Interrupted, RunInterrupted, UserError
from transfer.progress import part_of
from transfer.resampling import accuracy_interval
from transfer.run_files import LAST
from transfer.runs.predictor import Run, load_run
from transfer.statistics import Labels, Metric

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from datamodules.dataset.loaded import Dataset
    from datamodules.dataset.split import Split

LOG = "lpft.log"  # what the folds' runs print
# Passes over the images besides training: the probe's features, validation, and the prediction of the fold.
_OTHER_PASSES = 1
_ONLY_AT_THE_END = 2**30  # epochs between validations


def try_lpft(
    tried: Tried,
    dataset: Dataset,
    images: Images,
    fabric: Fabric,
    folder: Path,
    budget: Budget,
    expected: float,
    changes: Mapping[str, Any] | None = None,
    first: int = 0,
) -> tuple[Tuned | None, str]:
    """Fine-tune a network from its probe on as many folds as the time allows, and compare the two.

    A fold is begun only if time is left for a run of its length, too, which may have to follow.

    Args:
        tried: the network, and its probe's out-of-fold predictions.
        dataset: the images.
        images: those that were cross-validated; the folds are those of the first repeat.
        fabric: launched; its device trains.
        folder: the folder of the choice, which gets the runs' output.
        budget: what may be spent.
        expected: seconds that a fold takes.
        changes: settings that are not the rule's, as dotted fields.
        first: the first fold to compare on; those before it have chosen the settings.

    Returns:
        The comparison, None without a fold; and why folds were left out, empty if none was.
    """
    fold_of, probe = images.folds[0], tried.found.predictions[0]
    logits = np.full((len(fold_of), dataset.num_classes), np.nan, np.float32)
    seconds, reason = list[float](), ""
    what = f"fine-tuning {tried.candidate} from its probe (LP-FT) on its folds"
    print(f"{what}, about {format_duration(expected)} each", flush=True)
    for fold in range(first, images.num_folds):
        final = final_seconds(expected, dataset, images, fold)
        if expected + final > budget.left:
            reason = f"about {format_duration(expected + final)} for a fold and the run that may follow, {budget}"
            break
        started, mine = time.perf_counter(), fold_of == fold
        try:
            where = tried.candidate, dataset, images, fold, fabric, folder
            found = tune_fold(*where, budget.left - final, changes or {})
        except UserError as error:
            reason = name_flags(str(error).partition("\n")[0], find_flags(build_parser))
            break
        if found is None:
            reason = f"the fold took longer than predicted, {budget}"
            break
        logits[mine] = found
        seconds.append(time.perf_counter() - started)
        expected = max(seconds)
        figures = _compare_fold(images.labels[mine], found.argmax(1), probe[mine], dataset.metric)
        print(f"  fold {fold + 1} of {images.num_folds}: {figures}; {format_duration(seconds[-1])}", flush=True)
    if reason:
        left_out = images.num_folds - first - len(seconds)
        print(f"  {left_out} of {images.num_folds} folds are left out: {reason}", flush=True)
    if not seconds:
        return None, reason
    return compare_methods(images.labels, logits, probe, seconds, dataset.metric, images.groups), reason


def _compare_fold(labels: Labels, tuned: Labels, probe: Labels, metric: Metric) -> str:
    """Return the accuracies of a fold in words."""
    accuracies = [accuracy_interval(labels, predictions, metric)[0] for predictions in (tuned, probe)]
    return f"LP-FT {accuracies[0]:.1%}, probe {accuracies[1]:.1%} of {len(labels)} images"


def final_seconds(expected: float, dataset: Dataset, images: Images, fold: int = 0) -> float:
    """Return about how long the run takes that may follow, if a fold takes `expected` seconds."""
    return expected * dataset.split_sizes["train"] / int((images.folds[0] != fold).sum())


def why_impossible(config: FinetuneConfig) -> str:
    """Return why folds cannot be fine-tuned, if they cannot."""
    data = config.data
    if data.stream:
        return "the images are streamed"
    if data.per_class is not None or data.fraction is not None:
        return "its folds would be of all images, those of the probe of a part of them"
    return ""


def predict_seconds(candidate: Candidate, dataset: Dataset, images: Images, fabric: Fabric) -> float:
    """Return about how long a fold takes, from a few steps on noise and the preparation of one batch, both timed."""
    config, size = candidate.config, candidate.start.preprocessing.image_size
    speed = measure(candidate.start.variant.name, size, config.data.batch_size, on_cpu=fabric.device.type != "cuda")
    options = {**config.loader_options(), "num_workers": 0}
    loader = DataModule(dataset, candidate.start.preprocessing, **options).train_dataloader()
    next(iter(loader))  # whose first images take longer
    started = time.perf_counter()
    prepared = len(next(iter(loader))[0])
    preparing = (time.perf_counter() - started) / prepared / (1 + count_workers(config.data.num_workers))
    num_images = len(images.labels) * (1 - 1 / images.num_folds)
    epochs = next(each.value for each in choose_lpft(round(num_images)) if each.field == "trainer.max_epochs")
    return float((epochs + _OTHER_PASSES) * num_images * (1 / speed + preparing))


def tune_fold(
    candidate: Candidate,
    dataset: Dataset,
    images: Images,
    fold: int,
    fabric: Fabric,
    folder: Path,
    seconds: float,
    changes: Mapping[str, Any],
) -> NDArray[np.float32] | None:
    """Return the logits of a fold's images by a network fine-tuned on the others; None if it takes longer than that.

    Nothing of its run stays but its output, in `LOG`. `changes` are settings that are not the rule's, as dotted fields.

    Raises:
        UserError: the run is refused, or fails.
    """
    is_held_out = images.folds[0] == fold
    train, held_out = (images.split.select(np.flatnonzero(part)) for part in (~is_held_out, is_held_out))
    with TemporaryDirectory(dir=folder, prefix="fold-") as temporary, part_of(f"fold {fold + 1} of {images.num_folds}"):
        run_dir = Path(temporary) / "run"
        with open(folder / LOG, "a", encoding="utf-8") as log, redirect_stdout(log):
            try:
                results = finetune(_fold_config(candidate, images, fold, run_dir, seconds), **unflatten(changes))
            except RunInterrupted as interruption:  # nothing is left to go on with
                raise Interrupted(interruption.signal_number) from None
        for name, part in (("train", train), ("val", held_out)):  # the very images of the probe's fold, by content
            assert results.splits[name].fingerprint == part.fingerprint(), f"other images in {name} of fold {fold}"
        if (results.steps or 0) < (results.planned_steps or 0):
            return None
        return _predict(load_run(run_dir, LAST), held_out, dataset, fabric.device)


def fixed_settings(own: ChooseConfig) -> dict[str, bool]:
    """Return the settings of fine-tuning that the user chose for the probe, too, as dotted fields."""
    return {} if own.logit_adjustment == "auto" else {"loss.logit_adjustment": own.logit_adjustment}


def lpft_config(candidate: Candidate, run_dir: Path) -> FinetuneConfig:
    """Return the configuration of fine-tuning a candidate from its probe, at the probe's image size."""
    size = candidate.start.preprocessing.image_size
    return replace(candidate.config, method="lpft", recipe="none", image_size=size, out_dir=str(run_dir))


def _fold_config(candidate: Candidate, images: Images, fold: int, run_dir: Path, seconds: float) -> FinetuneConfig:
    """Return the configuration of a fold's run: it reads no test, and its files of features go with it."""
    config = lpft_config(candidate, run_dir)
    cache = str(run_dir.parent / "cache")
    trainer = replace(
        config.trainer, limit_test_batches=0, max_time=clock(seconds), check_val_every_n_epoch=_ONLY_AT_THE_END
    )
    data = replace(config.data, draw=config.seed, cache_dir=cache)
    return replace(config, folds=images.num_folds, fold=fold, data=data, trainer=trainer)


@torch.inference_mode()
def _predict(run: Run, held_out: Split, dataset: Dataset, device: torch.device) -> NDArray[np.float32]:
    """Return the logits of a fold's images. Shape: (n, C)"""
    data = DataModule(replace(dataset, splits={"val": held_out}), run.preprocessing, **run.config.loader_options())
    classifier = run.classifier.to(device)
    batches = data.eval_dataloader("val")
    logits = [classifier(data.normalize(images.to(device))).float().cpu() for images, _ in batches]
    return torch.cat(logits).numpy()
