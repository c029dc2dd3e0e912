"""Several runs whose probabilities are averaged: whether they go together, and what val and test say of the average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from transfer.bundle.record import Record
from transfer.bundle.tensors import TorchNetwork
from transfer.calibration.calibration import fit_calibration
from transfer.calibration.file import calibration_file
from transfer.commands.evaluate_data import record_test_read
from transfer.commands.export.facts import describe_calibration, finite
from transfer.commands.export.images import Batches, count_seen
from transfer.errors import BadValue
from transfer.networks.ensemble import Ensemble
from transfer.records import Interval
from transfer.runs.calibrating import head_digest
from transfer.runs.intervals import find_intervals
from transfer.runs.predictor import Run
from transfer.runs.results import Results
from transfer.training.metrics import Predicted, fit_threshold
from transfer.training.scores import Scores

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from datamodules.dataset.split import Split


def check_together(runs: Sequence[Run]) -> None:
    """Check that the answers of runs can be averaged, whatever their networks.

    Raises:
        BadValue: two are the same network, or one has other classes, images or preprocessing than the first.
    """
    seen: dict[str, Run] = {}
    for run in runs:
        digest = head_digest(run.classifier.head)
        if digest in seen:
            raise BadValue(
                f"{run.run_dir}: the same network as {seen[digest].run_dir}, whose answers would count twice; name each"
                " run once"
            )
        seen[digest] = run
    ours = _facts(runs[0])
    for run in runs[1:]:
        for what, theirs in _facts(run).items():
            if theirs != ours[what]:
                raise BadValue(
                    f"{run.run_dir}: {what} {theirs}, where {runs[0].run_dir} has {ours[what]}: their answers cannot be"
                    " averaged; export it alone, or train both alike"
                )


def _facts(run: Run) -> dict[str, object]:
    """Return what runs must have in common, by its name in a message."""
    return {
        "number of classes": len(run.class_names),
        **{f"class {number}": repr(name) for number, name in enumerate(run.class_names, 1)},
        "`data.multilabel`": run.config.data.multilabel,
        **asdict(run.preprocessing),
        "`data.max_pixels`": run.config.data.max_pixels,
        "`dataset`": run.config.dataset,
        "`data.per_class`": run.config.data.per_class,
        "`data.fraction`": run.config.data.fraction,
        "digest of all images and labels": _digest(run),
    }


def _digest(run: Run) -> str:
    """Return the digest of all images with their labels, however they are cut into splits.

    Of runs that trained on a part of what there is, each on another, it is that of test.
    """
    data, fingerprints = run.config.data, run.data["fingerprint"]
    is_part = data.per_class is not None or data.fraction is not None
    digests = [digest for name, digest in fingerprints.items() if name == "test" or not is_part]
    parts = [int(digest.removeprefix("streamed-"), 16) for digest in digests]
    return f"{sum(parts) % 2**128:032x}"


@dataclass(frozen=True)
class _Measured:
    """What a network answers to the N images of a split.

    Attributes:
        logits, features: float32 (N, K) and (N, F).
        predicted: labels and probabilities.
        metrics, intervals: as those of a run.
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    predicted: Predicted
    metrics: dict[str, float]
    intervals: dict[str, Interval]


def measure_together(
    network: Ensemble, opened: Sequence[tuple[Run, Results]], dataset: Dataset | None, record: Record
) -> tuple[Record, bytes | None]:
    """Return the record with what the average answers on val and test, and its calibration file, if val gives one.

    Val counts where all runs have the same and not all of it was trained on, so not with folds; test where all runs
    have the same and were tested on it, and that is a reading of it.

    Args:
        network: the networks of the runs.
        opened: the runs with their results.
        dataset: the images of the first; None: not at hand.
        record: of the first run, with all members.
    """
    runs = [run for run, _ in opened]
    thresholds = [run.label_threshold or run.threshold for run in runs]
    record = replace(
        record, threshold=float(np.mean(thresholds)), temperature=1.0, metrics={}, intervals={}, calibration=None
    )
    fit = None
    for name in [] if dataset is None else _shared_splits(opened, dataset):
        assert dataset is not None
        if name == "test":
            for run in runs:
                record_test_read(run.run_dir)
        found = _measure(name, TorchNetwork(network, record.preprocessing), dataset.split(name), runs[0])
        record = replace(
            record,
            metrics={**record.metrics, name: found.metrics},
            intervals={**record.intervals, name: found.intervals},
        )
        if name == "val" and len(found.logits) > 1:
            digest = head_digest(nn.ModuleList([run.classifier.head for run in runs]))
            calibration = fit_calibration(found.logits, found.predicted.labels.numpy(), found.features, digest)
            fit = calibration_file(calibration)
            threshold = calibration.threshold(fit_threshold(found.predicted)) if record.multilabel else record.threshold
            record = replace(
                record,
                threshold=threshold,
                temperature=calibration.temperature,
                calibration=describe_calibration(calibration),
            )
    return record, fit


def _shared_splits(opened: Sequence[tuple[Run, Results]], dataset: Dataset) -> list[str]:
    """Return of val and test those that can be measured; see `measure_together`."""
    runs = [run for run, _ in opened]

    def is_shared(name: str) -> bool:
        split = dataset.splits.get(name)
        same = all(run.data["fingerprint"].get(name) == dataset.fingerprint.get(name) for run in runs)
        return split is not None and len(split) > 0 and same

    found = []
    if is_shared("val") and count_seen(runs, dataset.split("val").ids()) < len(dataset.split("val")):
        found.append("val")
    if is_shared("test") and all("test" in results.metrics for _, results in opened):
        found.append("test")
    return found


def _measure(name: str, model: TorchNetwork, split: Split, run: Run) -> _Measured:
    multilabel, num_classes = run.config.data.multilabel, len(run.class_names)
    batches = Batches(split, np.arange(len(split)), run.decoding)
    outputs = [model(batches[index]) for index in range(len(batches))]
    logits, features = (np.concatenate(parts) for parts in zip(*((o.logits, o.features) for o in outputs), strict=True))
    scores = Scores(name, num_classes, multilabel, run.config.loss.name, keep_predictions=True)
    labels: Tensor = split.labels
    scores.update(torch.from_numpy(logits), labels)
    metrics = finite({key.removeprefix(f"{name}/"): float(value) for key, value in scores.compute().items()})
    scores.warn_of_absent(run.class_names)
    predicted = scores.predicted()
    arrays = predicted.labels.numpy(), predicted.probabilities.numpy()
    intervals = find_intervals(metrics, split.class_counts(num_classes), len(split), arrays)
    return _Measured(logits, features, predicted, metrics, intervals)
