"""What the runs of all folds say together: folds.json, out_of_fold.npz and the last lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.config.schema import FinetuneConfig
from transfer.files import written_whole
from transfer.records import Interval
from transfer.resampling import accuracy_interval
from transfer.runs.intervals import find_intervals
from transfer.runs.names import data_name
from transfer.runs.results import Metrics, Results
from transfer.runs.test_record import SavedPredictions, text_array
from transfer.statistics import Mean, bounded, mean_interval

SCHEMA_VERSION = 1  # of folds.json


@dataclass(frozen=True, kw_only=True)
class FoldRun:
    """The run of one fold.

    Attributes:
        run_dir: its folder, in that of all.
        num_images: images of its val, which is the fold.
        val, test: its metrics; `test` is None where it has read no test split.
        train_seconds: time in which it was trained.
    """

    run_dir: str
    num_images: int
    val: Metrics
    test: Metrics | None
    train_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class FoldResults:
    """What the runs of all folds say together.

    Attributes:
        metric: what the literature quotes for such data, one of `metrics`.
        folds, draw: how many folds there are, and the seed that they were drawn with.
        num_images: images in all folds: train and val together, each once.
        num_groups: groups of them that no two folds share; None without groups.
        metrics: on all these images, each answered by the one network that was not trained on it. The best epoch of
            each run was chosen on the same images, and the threshold of several labels, so they are somewhat too good.
        intervals: 95% intervals of `metrics` for other images, or groups, like these; of several labels only without
            groups.
        test: mean over the folds' networks of each metric on test, with the interval of that mean by Student's t; it
            says how far one network is from another, not how few the test images are. Empty without a test split.
        runs: in the order of the folds.
        wall_seconds: time of the whole call.
        config: every field of the configuration.
    """

    schema_version: int = SCHEMA_VERSION
    folder: str
    dataset: str
    backbone: str
    metric: str
    folds: int
    draw: int
    num_images: int
    num_groups: int | None
    metrics: Metrics
    intervals: dict[str, Interval]
    test: dict[str, Mean]
    runs: list[FoldRun]
    wall_seconds: float
    command: list[str]
    environment: dict[str, Any]
    config: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of folds.json, which does not say where its folder is."""
        content = asdict(self)
        del content["folder"]
        return content


@dataclass(frozen=True)
class OutOfFold:
    """What was said of each image by the network that was not trained on it, fold after fold.

    Attributes:
        said: labels, predictions and probabilities of the N images.
        folds: the fold of each image. Shape: (N,)
        groups: see `datamodules.dataset.split.Split`. Shape: (N,)
    """

    said: SavedPredictions
    folds: NDArray[np.int64]
    groups: NDArray[np.str_] | None

    @classmethod
    def of(cls, parts: Sequence[SavedPredictions], groups: Sequence[NDArray[np.str_] | None]) -> OutOfFold:
        """Return the predictions of all folds as one."""
        probabilities = [part.probabilities for part in parts if part.probabilities is not None]
        said = SavedPredictions(
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.predictions for part in parts]),
            np.concatenate(probabilities),
            tuple(path for part in parts for path in part.paths),
            parts[0].class_names,
        )
        folds = np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts])
        known = [names for names in groups if names is not None]
        return cls(said, folds, np.concatenate(known) if known else None)

    def save(self, path: Path) -> None:
        """Write what `SavedPredictions.save` does, and arrays `fold` (N,) and, with groups, `group` (N,)."""
        arrays: dict[str, Any] = {**self.said.arrays(), "fold": self.folds}
        if self.groups is not None:
            arrays["group"] = text_array(self.groups.tolist())
        with written_whole(path) as file:
            np.savez(file, **arrays)

    def metrics(self) -> tuple[Metrics, dict[str, Interval]]:
        """Return the metrics of all images together, and their 95% intervals."""
        import torch

        from transfer.training.metrics import build_metrics

        labels, probabilities = self.said.labels, self.said.probabilities
        assert probabilities is not None
        several, num_classes = self.said.multilabel, probabilities.shape[1]
        scores = build_metrics(num_classes, several)
        scores.update(torch.from_numpy(probabilities), torch.from_numpy(labels).long())
        found = Metrics({name: float(value) for name, value in scores.compute().items()})
        if self.groups is None:
            counts = labels.sum(0) if several else np.bincount(labels, minlength=num_classes)
            return found, find_intervals(found, counts.tolist(), len(labels), (labels, probabilities))
        intervals: dict[str, Interval] = {}
        for metric in ("top1", "mean_per_class"):
            if metric in found:
                _, intervals[metric] = accuracy_interval(labels, self.said.predictions, metric, self.groups)
        return found, intervals


def collect(
    config: FinetuneConfig, results: Sequence[Results], found: OutOfFold, folder: Path, seconds: float
) -> FoldResults:
    """Return what folds.json holds.

    Args:
        config: the configuration of all runs.
        results: of each run.
        found: what they say of the images that they were not trained on.
        folder: of all runs.
        seconds: wall-clock time of it all.
    """
    from transfer.environment import command_words, environment

    assert config.folds is not None
    metrics, intervals = found.metrics()
    tested = [each.metrics["test"] for each in results if "test" in each.metrics]
    return FoldResults(
        folder=str(folder),
        dataset=results[0].dataset,
        backbone=results[0].backbone,
        metric=results[0].shown_metric(metrics),
        folds=config.folds,
        draw=config.data.draw,
        num_images=len(found.folds),
        num_groups=None if found.groups is None else len(set(found.groups.tolist())),
        metrics=metrics,
        intervals=intervals,
        test=_means(tested) if len(tested) == len(results) else {},
        runs=[
            FoldRun(
                run_dir=each.run_dir.name,
                num_images=each.splits["val"].size,
                val=each.val,
                test=each.metrics.get("test"),
                train_seconds=each.train_seconds,
            )
            for each in results
        ],
        wall_seconds=round(seconds, 2),
        command=command_words(),
        environment=environment(),
        config=config.to_dict(),
    )


def _means(metrics: Sequence[Metrics]) -> dict[str, Mean]:
    """Return the mean over the runs of each metric; all but the loss are shares."""
    most = {"loss": math.inf}
    return {name: bounded(mean_interval([one[name] for one in metrics]), 0, most.get(name, 1)) for name in metrics[0]}


def describe_fold(results: Results) -> str:
    """Return what one run reached, in a line."""
    metric = results.shown_metric(results.val)
    reached = [f"{name} {metric} {_percent(found[metric])}" for name, found in results.metrics.items()]
    return f"{', '.join(reached)} ({results.train_seconds or 0:.0f} s)"


def describe(record: FoldResults, config: FinetuneConfig) -> str:
    """Return what a call says at its end."""
    images = f"{record.num_images:,} images"
    if record.num_groups is not None:
        images += f" of {record.num_groups:,} groups"
    lines = [
        f"{data_name(config)}, {record.backbone}: {record.folds}-fold, {images}, each answered by the network that was"
        " not trained on it",
        f"out of fold: {_list(record.metrics, record.intervals, record.metric)}; somewhat too good, as each run's best"
        " epoch was chosen on its fold",
    ]
    if record.test:
        means = {name: mean.value for name, mean in record.test.items()}
        lines += [f"test, mean of {record.folds} networks: {_list(means, _bounds(record.test), record.metric)}"]
    return "\n".join([*lines, f"results in {Path(record.folder) / 'folds.json'}"])


def _bounds(means: Mapping[str, Mean]) -> dict[str, Interval]:
    return {
        name: Interval(mean.low, mean.high)
        for name, mean in means.items()
        if mean.low is not None and mean.high is not None
    }


def _list(values: Mapping[str, float], intervals: Mapping[str, Interval], first: str) -> str:
    """Return accuracies in words, with their intervals, one of them first; a loss or calibration error is none."""
    return ", ".join(
        f"{name} {_percent(value)}" + (f" ({intervals[name].percent()})" if name in intervals else "")
        for name, value in sorted(values.items(), key=lambda item: item[0] != first)
        if name not in ("loss", "ece")
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
