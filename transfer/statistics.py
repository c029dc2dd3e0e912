"""Confidence intervals: over seeds, of a metric on test images, of the difference of two runs; rank correlations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from transfer.records import Interval

Labels = NDArray[np.int64]


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
        """Half of the interval's width; None without an interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


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


def multilabel_intervals(
    labels: NDArray[np.bool_], probabilities: NDArray[np.float32], num_resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return the 95% intervals of `f1` (micro, threshold one half) and `map`, by a bootstrap over the images.

    Args:
        labels: whether an image has each label. Shape: (N, C)
        probabilities: of each label. Shape: (N, C)
        num_resamples: number of resamples of the images.
        seed: seed of the resampling.
    """
    rng, count = np.random.default_rng(seed), len(labels)
    given = probabilities > 0.5
    hits, both = (labels & given).sum(1), labels.sum(1) + given.sum(1)
    order = np.argsort(-probabilities, axis=0, kind="stable")
    ranked = [(order[:, label], labels[:, label], probabilities[:, label]) for label in range(labels.shape[1])]
    f1, mean_precision = [], []
    for _ in range(num_resamples):
        weights = rng.multinomial(count, np.full(count, 1 / count))
        f1.append(float(2 * (weights @ hits) / max(weights @ both, 1)))
        precisions = [_average_precision(weights[by], truth[by], scores[by]) for by, truth, scores in ranked]
        mean_precision.append(float(np.mean([value for value in precisions if value is not None] or [np.nan])))
    return {"f1": _percentiles(f1), "map": _percentiles(mean_precision)}


def _average_precision(
    weights: NDArray[np.int64], truth: NDArray[np.bool_], scores: NDArray[np.float32]
) -> float | None:
    """Return the average precision of images in falling order of their scores; None if none of them has the label."""
    last_of_equals = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    given, found = weights.cumsum()[last_of_equals], (weights * truth).cumsum()[last_of_equals]
    if found[-1] == 0:
        return None
    return float(np.diff(found, prepend=0) @ (found / np.maximum(given, 1)) / found[-1])


def _percentiles(values: Sequence[float]) -> Interval:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """The accuracy of A minus that of B, both in [0, 1].

    Attributes:
        value: difference on the actual test images.
        low, high: bounds of the percentile interval.
        p_value: two-sided p-value of the hypothesis that both are equally good, by exchanging their predictions of each
            image at random: exact where they differ on few images, 13 for 10,000 resamples.
        num_better, num_equal: number of resamples in which A is better than B, and in which they are equal.
        num_resamples: number of resamples of the images.
    """

    value: float
    low: float
    high: float
    p_value: float
    num_better: int
    num_equal: int
    num_resamples: int


def paired_bootstrap(
    labels: Labels,
    predictions_a: Labels,
    predictions_b: Labels,
    metric: Literal["top1", "mean_per_class"] = "top1",
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Return the difference of two runs and how much it depends on the choice of test images.

    Source: Efron & Tibshirani 1993. Images are drawn with replacement, the same ones for both runs, and the metric is
    recomputed; classes that a resample lacks are left out of its mean per class. Only an image's class and which runs
    predict it correctly matter, so drawing N images is one draw from a multinomial over these few kinds. This equals
    resampling indices, in a fraction of the time and memory. It does not measure the spread between seeds.

    Args:
        labels, predictions_a, predictions_b: labels and both runs' predictions of the same images in the same order.
            Shapes: (N,), N at least 1.
        metric: accuracy over all images, or averaged over the classes.
        num_resamples: number of resamples.
        confidence: confidence level of the interval, in (0, 1).
        seed: seed of the resampling.
    """
    right_in_a, right_in_b = predictions_a == labels, predictions_b == labels
    classes = labels if metric == "mean_per_class" else np.zeros_like(labels)
    gains = right_in_a.astype(np.int64) - right_in_b
    kinds, counts = np.unique(np.stack([classes, gains], axis=1), axis=0, return_counts=True)
    # Kinds are sorted by class, so each class that has images is a run of neighbours.
    starts = np.flatnonzero(np.diff(kinds[:, 0], prepend=-1))

    def differences(samples: NDArray[np.int64]) -> NDArray[np.float64]:
        images = np.add.reduceat(samples, starts, axis=1)
        gained = np.add.reduceat(samples * kinds[:, 1], starts, axis=1)
        shares = np.divide(gained, images, out=np.full(images.shape, np.nan), where=images > 0)
        return np.asarray(np.nanmean(shares, axis=1)).round(12)  # so that differences that cancel out are exactly zero

    drawn = np.random.default_rng(seed).multinomial(len(labels), counts / len(labels), size=num_resamples)
    resampled = differences(drawn)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    num_better, num_equal = int(np.sum(resampled > 0)), int(np.sum(resampled == 0))
    _, group, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    contributions = gains / (len(sizes) * sizes[group])
    return Difference(
        value=float(differences(counts[None])[0]),
        low=float(low),
        high=float(high),
        p_value=_exchange_p(contributions[gains != 0], num_resamples),
        num_better=num_better,
        num_equal=num_equal,
        num_resamples=num_resamples,
    )


def _exchange_p(contributions: NDArray[np.float64], num_resamples: int) -> float:
    """Return the p-value of a sum whose terms, (N,), might as well have the opposite sign."""
    from scipy.stats import permutation_test

    if len(contributions) < 2:
        return 1.0  # of a single one either sign is as likely

    def statistic(signed: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.asarray(np.sum(signed, axis=axis))

    found = permutation_test(
        (contributions,),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=num_resamples,
        batch=500,
        random_state=0,
    )
    return min(1.0, float(found.pvalue))
