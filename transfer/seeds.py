"""Two settings compared over their seeds and the test images: which would win with other seeds, on other images.

Student's t decides, not the hierarchical bootstrap. Of 250 simulated comparisons on 1,000 images where seeds matter, in
pairs, the bootstrap covers the true difference in 81% with 2 seeds, 86% with 3 and 90% with 5; where seeds do not
matter, in 97 to 98%, as it counts the interaction too often. The interval of t covers it in 90%, 94% and 94%, and in 96
to 98% (`python -m benchmarks seed_intervals`, `benchmarks/seed_intervals_cpu.json`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transfer.records import Interval
from transfer.resampling import exchange_p, percentiles, resample, strata
from transfer.statistics import Labels, Metric

Gains = NDArray[np.float64]
_FEW_IMAGES = 13


@dataclass(frozen=True)
class SeedDifference:
    """The mean accuracy of setting A less that of B, both in [0, 1].

    Attributes:
        value: difference of the means over seeds and images.
        variance: variance of `value` over other seeds and images.
        degrees: degrees of freedom of `variance`.
        low, high: bounds of the 95% interval.
        p_value: two-sided p-value of the hypothesis that both are equally good.
        bootstrap: 95% percentile interval of the hierarchical bootstrap, which is too narrow with few seeds.
        num_seeds: seeds of A and of B.
        paired: whether they are the same seeds, taken in pairs.
    """

    value: float
    variance: float
    degrees: float
    low: float
    high: float
    p_value: float
    bootstrap: Interval | None
    num_seeds: tuple[int, int]
    paired: bool

    @property
    def covers_seeds(self) -> bool:
        """Whether the interval is for other seeds, too; with a single seed of either setting it is not."""
        return min(self.num_seeds) > 1


def compare_seeds(
    labels: Labels,
    predictions_a: Labels,
    predictions_b: Labels,
    metric: Metric = "top1",
    *,
    paired: bool,
    num_resamples: int = 2000,
    seed: int = 0,
) -> SeedDifference:
    """Return the difference of two settings that were trained with several seeds and tested on the same images.

    Seeds and images are crossed random effects, as readers and cases are where radiologists are compared. The variance
    of the difference is that between seeds, plus that between images, less that of their interaction, which both
    contain (Gallas, Pennello & Myers 2007, doi 10.1364/JOSAA.24.000B70, for binary data). Student's t has the degrees
    of freedom of Satterthwaite, with a negative remainder set to 0 (Hillis 2014, doi 10.1002/sim.5926). Ours: as seeds
    may agree by chance, the interval is at least as wide as that of these very seeds on other images. An interval of 2
    seeds is therefore wide where seeds matter and not where only images do. The p-value is that of t; where both
    settings differ on at most 13 images, it is not below that of exchanging their predictions of each image, which is
    exact. Where every image of a class gains as much, as when A gets all of them right and B none, the variance is 0
    and t says nothing: the p-value is that of the exchange alone, and the interval has no width.

    The hierarchical bootstrap is beside it: seeds and images are both drawn with replacement, the same images for both
    settings and, if paired, the same seeds (Sellam et al. 2022, "The MultiBERTs", arXiv 2106.16163, as the
    Multi-Bootstrap).

    With a single seed of either setting the spread between seeds is unknown: all is then for these trained networks on
    other images.

    Args:
        labels: of the images. Shape: (N,), N at least 2
        predictions_a, predictions_b: each seed's predictions. Shapes: (S, N) and (T, N)
        metric: accuracy over all images, or averaged over the classes.
        paired: whether row k of both is of the same seed; S = T.
        num_resamples: resamples of the bootstrap.
        seed: seed of the resampling.
    """
    a, b = (np.asarray(predictions == labels, dtype=np.float64) for predictions in (predictions_a, predictions_b))
    stratum, sizes = np.unique(strata(labels, metric), return_inverse=True, return_counts=True)[1:]
    weights = 1 / (len(sizes) * sizes[stratum])
    blocks = [a - b] if paired else [a, -b]
    gains = sum((block.mean(0) for block in blocks), np.zeros(len(labels)))
    value = float(weights @ gains)
    variance, degrees = _crossed_variance(blocks, gains, weights, np.where(sizes[stratum] == 1, -1, stratum))
    value = 0.0 if abs(value) < 1e-12 else value
    variance = 0.0 if variance < 1e-24 else variance
    low, high, p_value = student(value, variance, degrees)
    return SeedDifference(
        value=value,
        variance=variance,
        degrees=degrees,
        low=low,
        high=high,
        p_value=_exchanged(p_value, variance, weights * gains),
        bootstrap=percentiles(_bootstrap(labels, blocks, metric, num_resamples, seed)),
        num_seeds=(len(a), len(b)),
        paired=paired,
    )


def _exchanged(p_value: float, variance: float, contributions: Gains) -> float:
    """Return the p-value of t, or that of exchanging predictions where few images differ, or nothing varied."""
    if variance and np.count_nonzero(np.abs(contributions) > 1e-12) > _FEW_IMAGES:
        return p_value
    exact = exchange_p(contributions, 2**_FEW_IMAGES)
    return max(p_value, exact) if variance else exact


def student(value: float, variance: float, degrees: float) -> tuple[float, float, float]:
    """Return the 95% interval of a value and the two-sided p-value of 0, by Student's t.

    Without any variance the interval has no width and the p-value is 1: what never varied says nothing.
    """
    from scipy.stats import t

    if variance <= 0:
        return value, value, 1.0
    error = float(np.sqrt(variance))
    reach = float(t.ppf(0.975, degrees)) * error
    return value - reach, value + reach, float(2 * t.sf(abs(value) / error, degrees))


def average_difference(differences: Sequence[SeedDifference]) -> SeedDifference:
    """Return the mean of two settings' differences on several datasets.

    It is for these datasets, with other seeds and images: datasets are not a sample of any. Variances of datasets add
    up, and Welch and Satterthwaite's formula has the degrees of freedom. Where nothing varied on any of them, the
    p-value is the largest among the datasets that differ.

    Args:
        differences: of the same two settings, one of each dataset; at least one.
    """
    count = len(differences)
    value = float(np.mean([one.value for one in differences]))
    variance = sum(one.variance for one in differences) / count**2
    parts = sum((one.variance / count**2) ** 2 / one.degrees for one in differences)
    degrees = variance**2 / parts if parts else min(one.degrees for one in differences)
    low, high, p_value = student(value, variance, degrees)
    if value and not variance:
        p_value = max(one.p_value for one in differences if one.value)
    seeds = (min(one.num_seeds[0] for one in differences), min(one.num_seeds[1] for one in differences))
    return SeedDifference(
        value, variance, degrees, low, high, p_value, None, seeds, all(one.paired for one in differences)
    )


def _crossed_variance(
    blocks: Sequence[Gains], gains: Gains, weights: Gains, strata_of_images: Labels
) -> tuple[float, float]:
    """Return the variance of the mean difference and its degrees of freedom.

    Args:
        blocks: gains of each seed, (S, N) each; the difference is the sum of their means over seeds.
        gains: that sum for each image. Shape: (N,)
        weights: of each image in the metric; they sum to 1. Shape: (N,)
        strata_of_images: each is a sample of its own; -1 of images that are alone in their class, which together are
            one. Shape: (N,)
    """
    stratum, sizes = np.unique(strata_of_images, return_inverse=True, return_counts=True)[1:]

    def between_images(rows: Gains) -> float:
        """Return the variance of the weighted sum of images, summed over rows (R, N)."""
        means = np.stack([np.bincount(stratum, row) for row in rows]) / sizes
        spread = (rows - means[:, stratum]) ** 2 * sizes[stratum] / np.maximum(sizes[stratum] - 1, 1)
        return float(np.sum(spread @ weights**2))

    seeds, interaction, lost = 0.0, 0.0, 0.0
    for block in blocks:
        count = len(block)
        if count == 1:
            continue
        part = float(np.var(block @ weights, ddof=1)) / count
        seeds += part
        lost += part**2 / (count - 1)
        interaction += between_images(block - block.mean(0)) / (count * (count - 1))
    images_alone, of_images = between_images(gains[None]), float(max(len(gains) - len(sizes), 1))
    images = max(images_alone - interaction, 0.0)
    variance = seeds + images
    lost += images**2 / of_images
    both = variance, variance**2 / lost if lost else of_images
    return max(both, (images_alone, of_images), key=lambda found: student(0.0, *found)[1])


def _bootstrap(
    labels: Labels, blocks: Sequence[Gains], metric: Metric, num_resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return the differences of resampled seeds and images. Shape: (num_resamples,)"""

    def weigh(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        drawn = [rng.multinomial(n, np.full(n, 1 / n), size=size) / n for n in map(len, blocks)]
        return np.concatenate(drawn, axis=1)

    return resample(labels, np.concatenate(blocks), metric, num_resamples, seed, weigh=weigh)[1]
