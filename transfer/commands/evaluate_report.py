"""The output of an evaluation: on the terminal, and in a folder of its own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.errors import printable
from transfer.files import write_json

if TYPE_CHECKING:
    from transfer.commands.evaluate import Evaluation
    from transfer.commands.evaluate_data import Subject
    from transfer.runs.predictor import Run


def warn_of_differences(subject: Subject) -> None:
    """Warn of images or labels that are left out; classes without an image are told when their mean is taken."""
    if subject.unknown:
        named = ", ".join(f"{name!r} ({count} images)" for name, count in subject.unknown.items())
        multilabel = subject.dataset.source.options.multilabel
        what = "these labels are left out" if multilabel else "these images are left out"
        warnings.warn(f"{subject.name}: the run has no class {named}: {what}", stacklevel=2)


def print_evaluation(run: Run, found: Evaluation) -> None:
    """Print the metrics with their intervals, and of which images they are."""
    from transfer.commands.results_table import print_results
    from transfer.inference.engines import EngineRecord

    sheet_metric = _quoted_metric(found.data) if found.own_data else "top1"
    backbone, intervals = run.config.backbone, {found.split: found.intervals}
    print_results(found.data, backbone, {found.split: found.metrics}, sheet_metric, intervals=intervals)
    print(f"{found.num_images:,} images; engine: {EngineRecord(**found.engine)}")
    left_out = len(found.skipped_images)
    if left_out:
        print(f"without {left_out} image{'s' * (left_out > 1)} that cannot be read")
    if found.seen_images and not (found.own_data and found.split == "train"):
        print(f"{found.seen_images:,} of these images were trained on: the result is too good")
    if found.changed_splits:
        print(f"not the images of the run: {' and '.join(found.changed_splits)} changed since")
    if not found.own_data:
        print(printable(f"{found.data}: other data than the run's"))


def _quoted_metric(dataset: str) -> str:
    from datamodules import get_sheet

    return get_sheet(dataset).quoted_metric


def write_evaluation(found: Evaluation, out_dir: Path | None) -> Path:
    """Write an evaluation into a folder, and return it.

    Args:
        found: the evaluation.
        out_dir: the folder; None: the next number in the run's `evaluations`.
    """
    from transfer.runs.names import claim_number

    folder = claim_number(Path(found.run_dir) / "evaluations") if out_dir is None else out_dir
    folder.mkdir(parents=True, exist_ok=True)
    found.predictions.save(folder / "predictions.npz")
    write_json(folder / "evaluation.json", found.to_dict())
    return folder
