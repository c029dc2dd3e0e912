"""Bootstraps over images or groups of them: intervals of metrics, and of the difference of two runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transfer.records import Interval
from transfer.statistics import Labels, Metric, mean_per_class_interval, share_interval

Weigh = Callable[[np.random.Generator, int], NDArray[np.float64]]


def multilabel_intervals(
    labels: NDArray[np.bool_], probabilities: NDArray[np.float32], num_resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return the 95% intervals of `f1` (micro, threshold one half), `map` and `map_11`, by a bootstrap over the images.

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
    f1: list[float] = []
    means: list[tuple[float, float]] = []
    for _ in range(num_resamples):
        weights = rng.multinomial(count, np.full(count, 1 / count))
        f1.append(float(2 * (weights @ hits) / max(weights @ both, 1)))
        precisions = [_average_precisions(weights[by], truth[by], scores[by]) for by, truth, scores in ranked]
        found = [pair for pair in precisions if pair is not None] or [(np.nan, np.nan)]
        means.append((float(np.mean([area for area, _ in found])), float(np.mean([points for _, points in found]))))
    areas, at_points = zip(*means, strict=True)
    return {"f1": percentiles(f1), "map": percentiles(areas), "map_11": percentiles(at_points)}


def _average_precisions(
    weights: NDArray[np.int64], truth: NDArray[np.bool_], scores: NDArray[np.float32]
) -> tuple[float, float] | None:
    """Return the average precision of images in falling order of their scores, and that at 11 recalls.

    None if none of them has the label.
    """
    last_of_equals = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    given, found = weights.cumsum()[last_of_equals], (weights * truth).cumsum()[last_of_equals]
    if found[-1] == 0:
        return None
    precision = found / np.maximum(given, 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    reaches = np.searchsorted(10 * found, found[-1] * np.arange(11))
    return float(np.diff(found, prepend=0) @ precision / found[-1]), float(highest[reaches].mean())


def percentiles(values: Sequence[float] | NDArray[np.float64]) -> Interval:
    """Return the 95% percentile interval of resampled values, without those that are not a number."""
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

    @property
    def is_better(self) -> bool:
        """Whether A is better by more than the interval: if it costs more than B, B is kept otherwise.

        The interval of a single group has no width, and that of few is too narrow; exchanging them at random tells.
        """
        return self.low > 0 and self.p_value < 0.05


def paired_bootstrap(
    labels: Labels,
    predictions_a: Labels,
    predictions_b: Labels,
    metric: Metric = "top1",
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    groups: NDArray[np.generic] | None = None,
) -> Difference:
    """Return the difference of two runs and how much it depends on the choice of test images.

    Source: Efron & Tibshirani 1993. Images are drawn with replacement, the same ones for both runs, and the metric is
    recomputed; classes that a resample lacks are left out of its mean per class. It does not measure the spread between
    seeds.

    Args:
        labels: of the images. Shape: (N,), N at least 1
        predictions_a, predictions_b: both runs' predictions of these images; of repeated ones their accuracies are
            averaged. Shapes: (N,) or (R, N)
        metric: accuracy over all images, or averaged over the classes.
        num_resamples: number of resamples.
        confidence: confidence level of the interval, in (0, 1).
        seed: seed of the resampling.
        groups: whole groups are drawn, and exchanged, in place of images. Shape: (N,)
    """
    gains = _share_right(labels, predictions_a) - _share_right(labels, predictions_b)
    value, resampled = resample(labels, gains, metric, num_resamples, seed, groups)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    num_better, num_equal = int(np.sum(resampled > 0)), int(np.sum(resampled == 0))
    _, group, sizes = np.unique(strata(labels, metric), return_inverse=True, return_counts=True)
    contributions = gains / (len(sizes) * sizes[group])
    if groups is not None:
        contributions = np.bincount(np.unique(groups, return_inverse=True)[1], contributions).astype(np.float64)
    return Difference(
        value=value,
        low=float(low),
        high=float(high),
        p_value=exchange_p(contributions, num_resamples),
        num_better=num_better,
        num_equal=num_equal,
        num_resamples=num_resamples,
    )


def accuracy_interval(
    labels: Labels, predictions: Labels, metric: Metric = "top1", groups: NDArray[np.generic] | None = None
) -> tuple[float, Interval]:
    """Return an accuracy in [0, 1] and its 95% interval: Wilson's, or with groups by a bootstrap over them.

    Args:
        labels: of the images. Shape: (N,), N at least 1
        predictions: of repeated ones the accuracies are averaged. Shape: (N,) or (R, N)
        metric: accuracy over all images, or averaged over the classes.
        groups: images of one are not independent. Shape: (N,)
    """
    right = _share_right(labels, predictions)
    if groups is not None:
        value, resampled = resample(labels, right, metric, 10_000, 0, groups)
        return value, percentiles(resampled)
    if metric == "top1":
        value = float(np.mean(right))
        return value, share_interval(value, len(labels))
    counts = np.bincount(labels)
    value = float(np.mean(np.bincount(labels, right)[counts > 0] / counts[counts > 0]))
    return value, mean_per_class_interval(value, counts.tolist())


def _share_right(labels: Labels, predictions: Labels) -> NDArray[np.float64]:
    return np.asarray(np.mean(np.atleast_2d(predictions) == labels, axis=0))


def strata(labels: Labels, metric: Metric) -> Labels:
    """Return the stratum of each image, (N,): its class, if the metric averages over classes, else one for all."""
    return labels if metric == "mean_per_class" else np.zeros_like(labels)


def resample(
    labels: Labels,
    gains: NDArray[np.float64],
    metric: Metric,
    num_resamples: int,
    seed: int,
    groups: NDArray[np.generic] | None = None,
    weigh: Weigh | None = None,
) -> tuple[float, NDArray[np.float64]]:
    """Return the mean of the images' gains, as the metric takes it, on them and on each resample of them.

    Only an image's class, gains and group matter, so drawing N images is one draw from a multinomial over these few
    kinds. This equals resampling indices, in a fraction of the time and memory.

    Args:
        labels: of the images. Shape: (N,)
        gains: what each image adds; rows are summed. Shape: (N,) or (R, N)
        metric: accuracy over all images, or averaged over the classes.
        num_resamples: number of resamples.
        seed: seed of the resampling.
        groups: whole groups are drawn in place of images. Shape: (N,)
        weigh: draws the rows' weights of several resamples, (size, R), from a generator; None: all are 1.
    """
    rows = np.atleast_2d(gains)
    units = np.zeros_like(labels) if groups is None else np.unique(groups, return_inverse=True)[1]
    kinds, counts = np.unique(np.stack([strata(labels, metric), *rows, units], 1), axis=0, return_counts=True)
    # Kinds are sorted by class, so each class that has images is a run of neighbours.
    starts = np.flatnonzero(np.diff(kinds[:, 0], prepend=-1))
    rng, gain_of_kind, unit_of_kind = np.random.default_rng(seed), kinds[:, 1:-1].T, kinds[:, -1].astype(np.int64)

    def means(samples: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        images = np.add.reduceat(samples, starts, axis=1)
        gained = np.add.reduceat(samples * (weights @ gain_of_kind), starts, axis=1)
        shares = np.divide(gained, images, out=np.full(images.shape, np.nan), where=images > 0)
        return np.asarray(np.nanmean(shares, axis=1)).round(12)  # so that differences that cancel out are exactly zero

    def draw(size: int) -> NDArray[np.int64]:
        if groups is None:
            return rng.multinomial(len(labels), counts / len(labels), size=size)
        num_groups = int(units.max()) + 1
        drawn = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size)
        return np.asarray(drawn[:, unit_of_kind] * counts)

    evenly = np.ones((1, len(rows)))
    sizes = [len(part) for part in np.array_split(np.arange(num_resamples), -(-num_resamples // 1000))]
    resampled = [means(draw(size), evenly if weigh is None else weigh(rng, size)) for size in sizes]
    return float(means(counts[None], evenly)[0]), np.concatenate(resampled)


def exchange_p(contributions: NDArray[np.float64], num_resamples: int) -> float:
    """Return the p-value of a sum whose terms, (N,), might as well have the opposite sign."""
    from scipy.stats import permutation_test

    contributions = contributions[np.abs(contributions) > 1e-12]
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
