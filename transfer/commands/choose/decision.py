"""Which network to take, the most accurate unless a faster one is not worse beyond the interval; and how to train it:
by a linear probe, unless fine-tuning is better by more than the interval, or of many images at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transfer.config.auto import LPFT_FROM
from transfer.records import Interval
from transfer.resampling import Difference, accuracy_interval, paired_bootstrap
from transfer.statistics import Labels, Metric


@dataclass(frozen=True)
class Outcome:
    """What one network reaches and takes.

    Attributes:
        accuracy: of its out-of-fold predictions, in [0, 1].
        latency_ms: for one image: median, lower and upper quartile.
        predictions: out-of-fold, of each repeat. Shape: (R, N)
    """

    accuracy: float
    latency_ms: tuple[float, float, float]
    predictions: NDArray[np.int64]


@dataclass(frozen=True)
class Decision:
    """Indices of outcomes.

    Attributes:
        chosen: the one to take.
        front: those that no other beats in accuracy without taking longer, or the other way round; fastest first, so
            that the most accurate is the last.
        comparisons: the most accurate one less each faster one of the front that was tested, fastest first. The last
            one is taken if the most accurate is not better than it by more than the interval. Not tested is what may be
            faster by chance: whose upper quartile is not below the lower one of the most accurate.
    """

    chosen: int
    front: list[int]
    comparisons: dict[int, Difference]

    @property
    def most_accurate(self) -> int:
        """The most accurate one; of equals the fastest."""
        return self.front[-1]


def pareto_front(accuracies: Sequence[float], latencies: Sequence[float]) -> list[int]:
    """Return the indices that no other beats in one without losing in the other, fastest first; of equals the first."""
    front: list[int] = []
    for index in sorted(range(len(accuracies)), key=lambda i: (latencies[i], -accuracies[i], i)):
        if not front or accuracies[index] > accuracies[front[-1]]:
            front.append(index)
    return front


def decide(
    outcomes: Sequence[Outcome], labels: Labels, metric: Metric = "top1", groups: NDArray[np.generic] | None = None
) -> Decision:
    """Return which network to take, and why.

    Args:
        outcomes: at least one; all on the same folds.
        labels: of the images. Shape: (N,)
        metric: what is compared.
        groups: images of one are not independent. Shape: (N,)
    """
    front = pareto_front([one.accuracy for one in outcomes], [one.latency_ms[0] for one in outcomes])
    best, comparisons = front[-1], {}
    for faster in front[:-1]:
        if outcomes[faster].latency_ms[2] >= outcomes[best].latency_ms[1]:
            continue
        predictions = outcomes[best].predictions, outcomes[faster].predictions
        comparisons[faster] = paired_bootstrap(labels, *predictions, metric, groups=groups)
        if not comparisons[faster].is_better:
            return Decision(faster, front, comparisons)
    return Decision(best, front, comparisons)


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning reaches on the images of some folds, and how it compares with the linear probe on the same.

    Attributes:
        logits: out-of-fold, float32; not a number for images of folds that were not tried. Shape: (N, C)
        seconds: wall-clock time of each fold, in the order of the folds, of which they are the first.
        num_images: images of these folds.
        accuracy: on them, in [0, 1], with its 95% `interval`.
        probe_accuracy: the probe's on them.
        difference: `accuracy` less `probe_accuracy`.
        is_taken: whether to fine-tune: it is better by more than the interval, or better at all and there are as many
            images as it usually takes.
    """

    logits: NDArray[np.float32]
    seconds: tuple[float, ...]
    num_images: int
    accuracy: float
    interval: Interval
    probe_accuracy: float
    difference: Difference
    is_taken: bool


def compare_methods(
    labels: Labels,
    tuned: NDArray[np.float32],
    probe: Labels,
    seconds: Sequence[float],
    metric: Metric = "top1",
    groups: NDArray[np.generic] | None = None,
) -> Tuned:
    """Return how fine-tuning compares with the probe.

    Args:
        labels: of the images. Shape: (N,)
        tuned: out-of-fold logits of fine-tuning; not a number for images of folds that were not tried, at least one of
            which was. Shape: (N, C)
        probe: out-of-fold classes of the probe, fitted to the same folds. Shape: (N,)
        seconds: of each fold that was tried.
        metric: what is compared.
        groups: images of one are not independent. Shape: (N,)
    """
    usually, tried = len(labels) >= LPFT_FROM, ~np.isnan(tuned).any(1)
    labels, predictions = labels[tried], (tuned[tried].argmax(1), probe[tried])
    groups = None if groups is None else groups[tried]
    accuracy, interval = accuracy_interval(labels, predictions[0], metric, groups)
    difference = paired_bootstrap(labels, *predictions, metric, groups=groups)
    return Tuned(
        logits=tuned,
        seconds=tuple(seconds),
        num_images=len(labels),
        accuracy=accuracy,
        interval=interval,
        probe_accuracy=accuracy_interval(labels, predictions[1], metric, groups)[0],
        difference=difference,
        is_taken=difference.is_better or (usually and difference.value > 0),
    )
