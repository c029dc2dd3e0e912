"""Evaluate a finished run again, or on other labelled images: efficientnet-transfer evaluate RUN_DIR --data_root OTHER

Without --data_root, it loads the run's own data and refuses other training images than the run's. --data_root may name
where these lie now, or other labelled images: class folders, with or without splits, or a table. Their classes are
matched with the run's by name, and the result and every prediction are written to RUN_DIR/evaluations/<n>/. Each
reading of the run's own test split is counted in test_reads.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from transfer.commands.console import add_allow_user_code, add_engine, add_reading, check_folder, exit_status
from transfer.commands.next_steps import say_next
from transfer.config.schema import FinetuneConfig
from transfer.config.screens import add_help
from transfer.errors import BadValue, Interrupted
from transfer.files import expanded, write_json
from transfer.records import Interval

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.build import ReadFields
    from datamodules.datamodule import DataModule
    from transfer.commands.evaluate_data import Subject
    from transfer.runs.predictor import Run
    from transfer.runs.test_record import SavedPredictions
    from transfer.training.module import TransferModule


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer evaluate`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer evaluate",
        description="Evaluate a run of finetune again, or on other labelled images.",
    )
    add = parser.add_argument
    add("run_dir", metavar="RUN_DIR", type=expanded)
    add("--checkpoint", choices=("best", "last"), default="best")
    splits = "default: test; all images of other data without splits"
    add("--split", choices=("train", "val", "test", "all"), help=splits)
    add(
        "--data_root",
        metavar="PATH",
        type=expanded,
        help="where the run's data lie now, or other labelled images: a folder or table",
    )
    add("--dataset", metavar="NAME", help="the data's name; default: the run's; `folder` for images of your own")
    add_reading(parser, otherwise="the run's")
    bad = "images that cannot be read; default: the run's"
    add("--data.on_bad_image", "--on_bad_image", dest="on_bad_image", choices=("error", "skip"), help=bad)
    batch_size = "images per step; default: the run's"
    add("--data.batch_size", "--batch_size", dest="batch_size", type=int, metavar="N", help=batch_size)
    workers = "decoders per loader, processes or threads; default: the run's"
    add("--data.num_workers", "--num_workers", dest="num_workers", type=int, metavar="N", help=workers)
    stream = "fetch images while they are needed; default: as the run did"
    add("--data.stream", "--stream", dest="stream", choices=("true", "false"), help=stream)
    out_dir = "folder for evaluation.json and predictions.npz; default: RUN_DIR/evaluations/<n>/ for other data"
    add_engine(parser, default="torch")
    calibrate = "write the run's calibration anew, from its own val, which is measured, and its summary to results.json"
    add("--calibrate", action="store_true", help=calibrate)
    add("--out_dir", type=expanded, metavar="DIR", help=out_dir)
    add("--json", type=expanded, metavar="FILE", help="write the result there too")
    add_allow_user_code(parser)
    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = vars(build_parser().parse_args(argv))
    if arguments["stream"] is not None:
        arguments["stream"] = arguments["stream"] == "true"

    def command() -> None:
        found = evaluate(**arguments)
        if arguments["calibrate"]:
            say_next("calibrated", found.run_dir)
        else:
            say_next("evaluated", found.run_dir, found.data if Path(found.data).is_dir() else "photos/")

    return exit_status(command, build_parser)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of scoring a run on labelled images.

    Attributes:
        run_dir: the run's folder.
        checkpoint: `best` or `last`.
        data: where the images come from: a dataset's name, or a path.
        own_data: whether they are a split of the run's own data.
        split: `train`, `val`, `test` or `all`.
        num_images: number of images.
        metrics: each metric, as in the run's own results.
        intervals: 95% intervals of the metrics for other images like these; not of all metrics.
        per_class_accuracy: by class name, in [0, 1]; None for a class without an image.
        seen_images: how many of the images the network was trained on, in the run or before it; None: not known.
        changed_splits: splits of the run's own data that have changed since.
        absent_classes: classes of the run without an image.
        unknown_classes: classes that the run does not know, with their numbers of images; these are not in the metrics.
        skipped_images: images that cannot be read, with the reason; they are not in the metrics either.
        engine: what computed the network, and how close it comes to float32.
        predictions: label and probabilities of each image; they are not part of the file.
    """

    run_dir: str
    checkpoint: str
    data: str
    own_data: bool
    split: str
    num_images: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    per_class_accuracy: dict[str, float | None]
    seen_images: int | None
    changed_splits: list[str]
    absent_classes: tuple[str, ...]
    unknown_classes: dict[str, int]
    skipped_images: list[dict[str, Any]]
    engine: dict[str, Any]
    predictions: SavedPredictions = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return what is written as JSON."""
        content = {name: value for name, value in vars(self).items() if name != "predictions"}
        return {**content, "intervals": {name: asdict(interval) for name, interval in self.intervals.items()}}


def evaluate(
    run_dir: str | Path,
    checkpoint: str = "best",
    split: str | None = None,
    dataset: str | None = None,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    engine: str = "torch",
    calibrate: bool = False,
    out_dir: Path | None = None,
    json: Path | None = None,
    allow_user_code: bool = False,
    **reading: Unpack[ReadFields],
) -> Evaluation:
    """Score a run's checkpoint on labelled images, on one device with every image seen once; print and return it.

    Args:
        run_dir: folder of a finished run.
        checkpoint: `best` or `last`.
        split: `train`, `val`, `test` or `all`; None: `test`, or all images of other data without splits.
        dataset: the data's name, `folder` for images of one's own; None: the run's.
        batch_size: images per step; None: the run's.
        num_workers: decoders per loader, 0 or more; None: the run's.
        engine: what computes the network; see `choose_engine`.
        calibrate: whether to write the run's calibration anew; `split` is then `val`, the checkpoint the best.
        out_dir: folder for evaluation.json and predictions.npz; None: a numbered one of the run for other data.
        json: file that receives the result, too.
        allow_user_code: see `load_run`.
        reading: fields of `datamodules.dataset.sheet.ReadOptions` in place of the run's. `data_root` is where the run's
            data lie now, or other labelled images.

    Raises:
        MissingData: `run_dir` is not a run, or the data is not there.
        BadValue: an argument is out of range, or the data does not fit the run.
    """
    from transfer.commands.calibrate import calibrate_again, check_calibrates
    from transfer.commands.evaluate_data import begin_reading, open_images
    from transfer.commands.evaluate_report import print_evaluation, warn_of_differences, write_evaluation
    from transfer.runs.predictor import load_run

    run_dir = Path(run_dir)
    check_arguments(num_workers, engine, out_dir, json)
    if calibrate:
        split = check_calibrates(run_dir, checkpoint, split)
    run = load_run(run_dir, f"{checkpoint}.ckpt", allow_user_code=allow_user_code, calibrated=not calibrate)
    subject = open_images(run, split, dataset, {name: value for name, value in reading.items() if value is not None})
    warn_of_differences(subject)
    begin_reading(run_dir, subject, out_dir)
    options = {"batch_size": batch_size, "num_workers": num_workers}
    loading = {name: value for name, value in options.items() if value is not None}
    evaluation = measure(run, subject, checkpoint, engine, loading)
    print_evaluation(run, evaluation)
    if out_dir is not None or not subject.own:
        print(f"written: {write_evaluation(evaluation, out_dir)}")
    if json is not None:
        write_json(json, evaluation.to_dict())
    if calibrate:
        print(calibrate_again(run, subject, loading))
    return evaluation


def check_arguments(num_workers: int | None, engine: str, out_dir: Path | None, json: Path | None) -> None:
    """Check, before anything is read, what does not depend on the run."""
    from transfer.inference.names import check_engine

    check_engine(engine)
    check_folder("json", json)
    if out_dir is not None and out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise BadValue(f"`out_dir`={out_dir} is not empty: nothing in it is overwritten; choose a new folder")
    if num_workers is not None and num_workers < 0:
        raise BadValue(f"`num_workers`={num_workers} (allowed: at least 0)")


def measure(run: Run, subject: Subject, checkpoint: str, engine: str, loading: dict[str, int]) -> Evaluation:
    """Return a run's metrics and predictions on images.

    Args:
        run: the run.
        subject: the images.
        checkpoint: which of the run's checkpoints it is, for the result.
        engine: see `evaluate`.
        loading: options of the loaders in place of the run's.
    """
    from datamodules.datamodule import DataModule
    from transfer.commands.evaluate_data import count_seen_images
    from transfer.inference.classifier import EngineClassifier
    from transfer.inference.names import needs_cpu, num_examples
    from transfer.runs.intervals import find_intervals
    from transfer.runs.test_record import make_predictions

    options = {**run.config.loader_options(), **loading} | ({} if subject.own else {"cache": "none"})
    data = DataModule(subject.dataset, run.preprocessing, **options)

    def examples() -> Tensor:
        return data.normalize(data.eval_dataloader("test").examples(num_examples(engine)))

    run = run.with_engine(engine, len(subject.dataset.split("test")), examples)
    metrics, module = run_test(run, data, accelerator="cpu" if needs_cpu(engine) else "auto")
    assert module.predictions is not None
    labels, probabilities = module.predictions
    run.check_finite(probabilities)
    images, names = subject.dataset.split("test"), []
    if len(labels) == len(images):  # a stream leaves bad images out on its way, and nobody knows where
        order = data.test_order("test", 1).argsort()
        labels, probabilities, names = labels[order], probabilities[order], images.image_names()
    counts = images.class_counts(len(run.class_names))
    assert isinstance(run.classifier, EngineClassifier) and run.classifier.record is not None
    accuracies = zip(run.class_names, module.per_class_accuracy, counts, strict=True)
    return Evaluation(
        run_dir=str(run.run_dir),
        checkpoint=checkpoint,
        data=subject.name,
        own_data=subject.own,
        split=subject.split,
        num_images=len(labels),
        metrics=metrics,
        intervals=find_intervals(metrics, counts, len(labels), (labels.numpy(), probabilities.numpy())),
        per_class_accuracy={name: accuracy if count else None for name, accuracy, count in accuracies},
        seen_images=count_seen_images(run, subject),
        changed_splits=subject.changed,
        absent_classes=subject.absent,
        unknown_classes=subject.unknown,
        skipped_images=[asdict(image) for image in subject.dataset.skipped],
        engine=asdict(run.classifier.record),
        predictions=make_predictions(labels.numpy(), probabilities.numpy(), names, run.class_names, run.threshold),
    )


def run_test(run: Run, data: DataModule, accelerator: str) -> tuple[dict[str, float], TransferModule]:
    """Return a run's metrics on the test split of a datamodule, and the module with the predictions.

    Args:
        run: the run, with an engine, whose precision it is: the Trainer's is float32.
        data: the images.
        accelerator: Lightning's name of the device.
    """
    from transfer.lightning import pl
    from transfer.training.interruption import StopAtOnce
    from transfer.training.module import TransferModule
    from transfer.training.trainer import build_progress, quiet_lightning

    quiet_lightning()
    progress = build_progress(FinetuneConfig())
    module = TransferModule(run.classifier, multilabel=run.config.data.multilabel, loss=run.config.loss.name)
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=bool(progress),
        enable_model_summary=False,
        callbacks=[*progress, StopAtOnce(Interrupted)],
    )
    logged = trainer.test(module, datamodule=data, verbose=False)[0]
    return {name.removeprefix("test/"): float(value) for name, value in logged.items()}, module
