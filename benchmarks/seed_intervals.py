"""How often an interval of two settings' difference covers the truth: python -m benchmarks seed_intervals

A setting is right on an image where its quality, plus a part of the image, of setting and image, of the seed and of
seed and image is above 0. All parts are normal, so the true difference is known. Each repetition draws other images
and seeds. Four intervals are counted: `crossed` of `transfer.seeds.compare_seeds`, its hierarchical `bootstrap`,
Student's t over the `seeds`' accuracies alone, and the paired bootstrap over the `images` alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from transfer.errors import check_count
from transfer.records import Interval
from transfer.resampling import percentiles, resample
from transfer.seeds import compare_seeds, student

QUALITIES = (1.6, 1.5)
# Standard deviations: of an image, of setting and image, and of seed and image.
IMAGE, SETTING_IMAGE, SEED_IMAGE = 1.0, 0.5, 0.4
SEED = {"none": 0.0, "small": 0.03, "large": 0.15}
METHODS = ("crossed", "bootstrap", "seeds", "images")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_seed_intervals`."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5, 10], metavar="N")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="test images; default: 1000")
    parser.add_argument("--repetitions", type=int, default=1000, metavar="N", help="default: 1000")


def benchmark_seed_intervals(seeds: Sequence[int], images: int, repetitions: int) -> dict[str, Any]:
    """Return the share of 95% intervals that cover the true difference, and their mean width in points.

    Args:
        seeds: numbers of seeds.
        images: test images.
        repetitions: of each case.
    """
    check_count("repetitions", repetitions)
    figures: dict[str, Any] = {"images": images, "repetitions": repetitions}
    for name, spread in SEED.items():
        figures[name] = {"spread_of_seeds_points": round(100 * seed_spread(spread), 2)}
        for number in seeds:
            for paired in (True, False):
                case = f"{number} seeds, {'paired' if paired else 'not paired'}"
                figures[name][case] = try_case(number, spread, images, repetitions, paired)
    return figures


def try_case(number: int, spread: float, images: int, repetitions: int, paired: bool) -> dict[str, dict[str, float]]:
    """Return the coverage and the mean width in points of each method's intervals."""
    truth = true_accuracy(QUALITIES[0], spread) - true_accuracy(QUALITIES[1], spread)
    found = [all_intervals(draw(number, spread, images, seed), paired) for seed in range(repetitions)]
    return {
        method: {
            "covers": float(np.mean([one[method].low <= truth <= one[method].high for one in found])),
            "width_points": round(100 * float(np.mean([one[method].high - one[method].low for one in found])), 2),
        }
        for method in METHODS
    }


def all_intervals(predictions: Sequence[NDArray[np.int64]], paired: bool) -> dict[str, Interval]:
    """Return the interval of each method, for predictions (S, N) whose right class is 1."""
    a, b = predictions
    labels = np.ones(a.shape[1], np.int64)
    difference = compare_seeds(labels, a, b, paired=paired, num_resamples=500)
    assert difference.bootstrap is not None
    gains = np.mean(a, axis=0) - np.mean(b, axis=0)
    return {
        "crossed": Interval(difference.low, difference.high),
        "bootstrap": difference.bootstrap,
        "seeds": seeds_alone(a.mean(1), b.mean(1), paired),
        "images": percentiles(resample(labels, gains, "top1", 500, 0)[1]),
    }


def seeds_alone(a: NDArray[np.float64], b: NDArray[np.float64], paired: bool) -> Interval:
    """Return Student's (of pairs) or Welch's interval of the difference of the seeds' accuracies."""
    parts = [float(np.var(sample, ddof=1)) / len(sample) for sample in ([a - b] if paired else [a, b])]
    lost = sum(part**2 / (len(a) - 1) for part in parts)
    low, high, _ = student(float(a.mean() - b.mean()), sum(parts), sum(parts) ** 2 / lost if lost else 1.0)
    return Interval(low, high)


def draw(number: int, spread: float, images: int, seed: int) -> list[NDArray[np.int64]]:
    """Return each setting's predictions, (S, N): 1 where it is right."""
    rng = np.random.default_rng(seed)
    of_image = IMAGE * rng.normal(size=images)
    settings = []
    for quality in QUALITIES:
        latent = quality + of_image + SETTING_IMAGE * rng.normal(size=images)
        latent = latent + spread * rng.normal(size=(number, 1)) + SEED_IMAGE * rng.normal(size=(number, images))
        settings.append((latent > 0).astype(np.int64))
    return settings


def true_accuracy(quality: float, spread: float) -> float:
    """Return the accuracy of a setting over all images and seeds."""
    return float(norm.cdf(quality / np.sqrt(IMAGE**2 + SETTING_IMAGE**2 + SEED_IMAGE**2 + spread**2)))


def seed_spread(spread: float) -> float:
    """Return the standard deviation of the better setting's accuracy over seeds."""
    deviations = np.random.default_rng(0).normal(size=100_000) * spread
    return float(np.std(norm.cdf((QUALITIES[0] + deviations) / np.sqrt(IMAGE**2 + SETTING_IMAGE**2 + SEED_IMAGE**2))))
