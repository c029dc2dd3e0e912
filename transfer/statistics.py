"""Means over seeds, accuracies and their intervals in closed form, corrected p-values, rank correlations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from transfer.records import Interval

Labels = NDArray[np.int64]
Metric = Literal["top1", "mean_per_class"]


@dataclass(frozen=True)
class Mean:
    """A mean with its confidence interval.

    Attributes:
        value: the mean.
        low, high: bounds of the interval; None for a single value.
        count: number of values.
    """

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def half_width(self) -> float | None:
        """Distance from the mean to the farther bound; None without an interval."""
        return None if self.low is None or self.high is None else max(self.value - self.low, self.high - self.value)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Mean:
    """Return the mean and its confidence interval by Student's t, as seeds are few.

    Args:
        values: at least one value, in any unit.
        confidence: confidence level, in (0, 1).
    """
    # Imported here: scipy.stats takes half a second.
    from scipy.stats import t

    count, mean = len(values), float(np.mean(values))
    if count == 1:
        return Mean(mean, None, None, 1)
    half_width = float(t.ppf((1 + confidence) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return Mean(mean, mean - half_width, mean + half_width, count)


def bounded(mean: Mean, least: float, most: float) -> Mean:
    """Return a mean whose interval ends where the quantity does: no accuracy is below 0 or above 100%."""
    if mean.low is None or mean.high is None:
        return mean
    return replace(mean, low=max(mean.low, least), high=min(mean.high, most))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the same order.

    Where nothing differs, at most one family in 20 has a corrected p-value below 0.05.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.

    Args:
        p_values: of the whole family, in [0, 1]; they may depend on each other in any way.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected


@dataclass(frozen=True)
class Correlation:
    """A rank correlation.

    Attributes:
        value: Spearman's, in [-1, 1].
        p_value: two-sided p-value by permutation: of few pairs it is exact, and not below 2 / n!.
    """

    value: float
    p_value: float


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Return the rank correlation of at least two pairs.

    All permutations are counted for up to seven pairs, 9,999 random ones beyond. Student's t, which is common in their
    place, gives a perfect order of three pairs p = 0.

    Args:
        x, y: the pairs' values; neither is the same throughout.
    """
    from scipy.stats import permutation_test, rankdata

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (x, y)]
    scale = float(np.sqrt(np.prod([np.sum(centred**2) for centred in ranks])))

    def statistic(permuted: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.asarray(np.sum(permuted * ranks[1], axis=axis) / scale)

    found = permutation_test(
        ranks[:1], statistic, permutation_type="pairings", vectorized=True, n_resamples=9_999, random_state=0
    )
    return Correlation(float(found.statistic), float(found.pvalue))


def top1(labels: Labels, predictions: Labels) -> float:
    """Return the share of correct predictions, in [0, 1]. Shapes: (N,), N at least 1."""
    return float(np.mean(labels == predictions))


def mean_per_class(labels: Labels, predictions: Labels) -> float:
    """Return the accuracy averaged over the classes that have images, in [0, 1]. Shapes: (N,), N at least 1."""
    right = np.bincount(labels, labels == predictions)
    images = np.bincount(labels)
    return float(np.mean(right[images > 0] / images[images > 0]))


def share_interval(share: float, num_images: float) -> Interval:
    """Return Wilson's 95% interval (1927) of a share of images: right for few images too, and within [0, 1].

    Args:
        share: the share found, in [0, 1].
        num_images: number of images it was found on, above 0; may be an effective number.
    """
    z2 = 1.959963984540054**2
    centre = (share + z2 / (2 * num_images)) / (1 + z2 / num_images)
    half = np.sqrt(z2 * share * (1 - share) / num_images + (z2 / (2 * num_images)) ** 2) / (1 + z2 / num_images)
    return Interval(float(max(centre - half, 0.0)), float(min(centre + half, 1.0)))


def mean_per_class_interval(value: float, class_counts: Sequence[float]) -> Interval:
    """Return Wilson's 95% interval of an accuracy averaged over classes.

    It takes the number of images on which a plain accuracy would vary as much: C^2 / sum(1 / n) for C classes of n
    images each, if all are as hard.

    Args:
        value: the mean of the classes' accuracies, in [0, 1].
        class_counts: images of each class; those without any do not count.
    """
    counts = np.array([count for count in class_counts if count])
    return share_interval(value, len(counts) ** 2 / np.sum(1 / counts))
