"""Evaluate a finished run again: efficientnet-transfer evaluate RUN_DIR

Rebuilds the network from the run's own files, loads the data, refuses data the run was not trained on, and prints the
metrics. Each reading of the test split is counted in the run's test_reads.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import add_allow_user_code, check_folder, exit_status
from transfer.errors import BadValue, MissingData
from transfer.files import expanded

if TYPE_CHECKING:
    from datamodules.datamodule import DataModule
    from datamodules.loading.loaders import ImageLoader
    from transfer.runs.predictor import Run


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer evaluate`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer evaluate", description="Evaluate a run of finetune again."
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=expanded)
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="default: test")
    parser.add_argument("--data_root", help="where the data lies now, if not where the run found it")
    parser.add_argument(
        "--data.batch_size", "--batch_size", dest="batch_size", type=int, help="images per step; default: the run's"
    )
    parser.add_argument(
        "--data.num_workers", "--num_workers", dest="num_workers", type=int, help="loader processes; default: the run's"
    )
    parser.add_argument(
        "--data.stream",
        "--stream",
        dest="stream",
        choices=("true", "false"),
        help="fetch images while they are needed; default: as the run did",
    )
    parser.add_argument("--json", type=expanded, metavar="FILE", help="write the metrics there too")
    add_allow_user_code(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: evaluate(**vars(arguments)), build_parser)


def evaluate(
    run_dir: Path,
    checkpoint: str = "best",
    split: str = "test",
    data_root: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    stream: str | None = None,
    json: Path | None = None,
    allow_user_code: bool = False,
) -> None:
    """Print the metrics of a run's checkpoint on one split, computed on one device with every image seen once.

    Args:
        run_dir: folder of a finished run.
        checkpoint: `best` or `last`.
        split: `train`, `val` or `test`.
        data_root: where the data lies now; None: where the run found it.
        batch_size: images per step; None: the run's.
        num_workers: loader processes, 0 or more; None: the run's.
        stream: `true` or `false`, whether to fetch images while they are needed; None: as the run did.
        json: file that receives the metrics, too.
        allow_user_code: see `load_run`.

    Raises:
        MissingData: `run_dir` is not a run, or its data is not there.
        BadValue: an argument is out of range, or the data is not what the run was trained on.
    """
    from transfer.commands.results_table import print_results
    from transfer.files import write_json
    from transfer.runs.predictor import load_run
    from transfer.runs.test_record import count_test_read

    check_folder("json", json)
    if num_workers is not None and num_workers < 0:
        raise BadValue(f"`num_workers`={num_workers} (allowed: at least 0)")
    run = load_run(run_dir, f"{checkpoint}.ckpt", allow_user_code=allow_user_code)
    data = load_data(run, split, data_root, stream, {"batch_size": batch_size, "num_workers": num_workers})
    if split == "test":
        try:
            count_test_read(run_dir)
        except OSError as error:
            print(f"warning: this reading of the test split could not be counted: {error}", file=sys.stderr)
    metrics, per_class = measure(run, data)
    print_results(run.config.dataset, run.config.backbone, {split: metrics}, data.dataset.sheet.metric)
    if json is not None:
        facts = {"run_dir": str(run_dir), "split": split}
        write_json(json, {**facts, "metrics": metrics, "per_class_accuracy": per_class})


def load_data(
    run: Run, split: str, data_root: str | None, stream: str | None, loading: Mapping[str, int | None]
) -> DataModule:
    """Return the data that a run was trained on, whose test loader reads `split`.

    Args:
        run: the run, whose options hold where no other is given.
        split: `train`, `val` or `test`.
        data_root: where the data lies now; None: where the run found it.
        stream: `true` or `false`; None: as the run did.
        loading: batch_size and num_workers; None: the run's.

    Raises:
        MissingData: the data or the split is not there.
        BadValue: it is not what the run was trained on.
    """
    from datamodules import load_dataset
    from datamodules.datamodule import DataModule

    reading, options = run.config.read_options(), run.config.loader_options()
    if data_root is not None:
        reading["data_root"] = data_root
    if stream is not None:
        reading["stream"] = stream == "true"
    options |= {name: value for name, value in loading.items() if value is not None}
    dataset = load_dataset(run.config.dataset, **reading)
    dataset.check_same_data(run.data)
    if split not in dataset.splits:
        raise MissingData(f"`split`={split}: the data has only {', '.join(dataset.splits)}")

    class OneSplit(DataModule):
        def test_dataloader(self) -> ImageLoader:
            return self.eval_dataloader(split)

    return OneSplit(dataset, run.preprocessing, **options)


def measure(run: Run, data: DataModule) -> tuple[dict[str, float], dict[str, float]]:
    """Return a run's metrics on the data's test loader, and its accuracy on each class, all in [0, 1] but the loss."""
    from transfer.lightning import pl
    from transfer.training.module import TransferModule
    from transfer.training.trainer import quiet_lightning, resolve_precision

    quiet_lightning()
    module = TransferModule(run.classifier, multilabel=run.config.data.multilabel, loss=run.config.loss.name)
    trainer = pl.Trainer(
        devices=1,
        precision=resolve_precision(run.config.trainer),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    logged = trainer.test(module, datamodule=data, verbose=False)[0]
    metrics = {name.removeprefix("test/"): float(value) for name, value in logged.items()}
    return metrics, dict(zip(run.class_names, module.per_class_accuracy, strict=True))
