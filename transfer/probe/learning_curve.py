"""How accuracy grows with the number of images: measured on nested draws of them, extrapolated by power laws.

Measured: heads fitted to a part of the other folds' images predict all images of a fold; every size is tested on all
images. Extrapolated: error = a + b n^-c, fitted by least squares with the larger sizes weighing more (Figueroa et al.
2012, BMC Medical Informatics 12:8). That error falls so is an observation (Hestness et al. 2017, arXiv 1712.00409);
what remains with endless images, a, is hardly to be seen in a few sizes (Mahmood et al. 2022, arXiv 2207.01725). So
half of the resamples are fitted with a free asymptote, half without one, and the interval is that of both. Measured on
20 draws of 300 photos (`python -m benchmarks learning_curve`), what twice and four times as many brought was within the
interval for 95% and 100%; without the fits through zero, or with the mean of the draws, for fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from transfer.folds import Folds, draw_folds
from transfer.probe.cross_validation import ChosenHead, predict_from_some
from transfer.probe.features import Features
from transfer.progress import track
from transfer.records import Interval
from transfer.statistics import Metric

Array = NDArray[np.float64]

MOST_SIZES, FEWEST_SIZES = 5, 4
_PER_CLASS = 2  # images of a class, on average, from which on a size counts
_RESAMPLES = 400
_EXPONENTS = np.geomspace(0.02, 3, 250)
_MOST_MISFIT = 0.02  # of the accuracy, beyond three standard errors of the draws


@dataclass(frozen=True)
class Measured:
    """Which images heads predict right that were fitted to a growing number of images.

    Attributes:
        sizes: images that a head was fitted to, the mean over folds and draws, rising. Shape: (S,)
        right: for each draw and size. Shape: (D, S, N)
        labels: of the images. Shape: (N,)
        groups: what is drawn together. Shape: (N,)
        metric: how accuracy is counted.
    """

    sizes: Array
    right: NDArray[np.bool_]
    labels: NDArray[np.int64]
    groups: NDArray[np.generic] | None
    metric: Metric

    @cached_property
    def resampled(self) -> Array:
        """The share of right images of each class, of a random draw and resampled images or groups. Shape: (R, S, C)

        A single draw, not the mean of resampled ones, as who collects photos has one set of them.
        Classes are those that have images; one that a resample lacks has NaN.
        """
        rng, order = np.random.default_rng(0), np.argsort(self.labels, kind="stable")
        starts = np.flatnonzero(np.diff(self.labels[order], prepend=-1))
        right = self.right[:, :, order]
        units = np.arange(len(order)) if self.groups is None else np.unique(self.groups, return_inverse=True)[1]
        unit_of, num_units = units[order], int(units.max()) + 1
        found = []
        for _ in range(_RESAMPLES):
            weights = rng.multinomial(num_units, np.full(num_units, 1 / num_units))[unit_of]
            hits = right[rng.integers(len(right))] * weights
            images = np.add.reduceat(weights, starts).astype(np.float64)
            hits = np.add.reduceat(hits, starts, axis=1)
            found.append(np.divide(hits, images, out=np.full(hits.shape, np.nan), where=images > 0))
        return np.stack(found)

    @cached_property
    def of_classes(self) -> Array:
        """The share of right images of each class that has any. Shape: (D, S, C)"""
        return np.stack([self.right[:, :, self.labels == label].mean(2) for label in np.unique(self.labels)], 2)

    def accuracy(self, of_classes: Array) -> Array:
        """Return the accuracy of each size from the shares of each class, (..., S, C). Shape: (..., S)"""
        weights = np.bincount(self.labels)[np.unique(self.labels)] / len(self.labels)
        if self.metric == "mean_per_class":
            weights = np.full(len(weights), 1 / len(weights))
        known = ~np.isnan(of_classes)
        return np.asarray((np.nan_to_num(of_classes) * weights).sum(-1) / (known * weights).sum(-1))


def draw_order(labels: NDArray[np.int64], groups: NDArray[np.generic] | None, seed: int) -> Array:
    """Return a number in [0, 1) for each image: those below s are a stratified draw of the share s. Shape: (N,)

    Images of one group have the same number; a group is stratified by the class of most of its images.
    """
    rng = np.random.default_rng(seed)
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    counts = np.zeros((int(units.max()) + 1, int(labels.max()) + 1), np.int64)
    np.add.at(counts, (units, labels), 1)
    class_of, sizes = counts.argmax(1), counts.sum(1)
    order = np.empty(len(counts))
    for label in np.unique(class_of):
        members = rng.permutation(np.flatnonzero(class_of == label))
        before = np.cumsum(sizes[members]) - sizes[members]
        order[members] = (before + rng.random() * sizes[members]) / sizes[members].sum()
    return np.asarray(order[units])


def _shares(labels: NDArray[np.int64], orders: Sequence[Array], folds: Folds) -> list[float]:
    """Return the shares of the images to measure at, rising to 1; of few images fewer than `FEWEST_SIZES`."""
    least = _PER_CLASS * len(np.unique(labels))

    def is_enough(share: float) -> bool:
        fitted = [
            labels[(order < share) & (fold_of != fold)]
            for order, fold_of in zip(orders, folds, strict=True)
            for fold in range(int(fold_of.max()) + 1)
        ]
        return share * len(labels) >= least and all(len(np.unique(each)) > 1 for each in fitted)

    smaller = [2 ** (-step / 2) for step in range(MOST_SIZES - 1, 0, -1)]
    return [*filter(is_enough, smaller), 1.0]


def penalties_around(penalty: float) -> list[float]:
    """Return the penalties to choose from for fewer or more images than those that a penalty was chosen for."""
    return [factor * penalty for factor in (10, 1, 0.1, 0.01)]


def measure_curve(
    features: Features,
    num_classes: int,
    choice: ChosenHead,
    num_folds: int,
    metric: Metric = "top1",
    groups: NDArray[np.generic] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Measured:
    """Return what a linear head predicts right, by the number of images that it was fitted to.

    Each draw has folds of its own. Fewer images get more draws, 3 to 5: of those it matters more which are drawn.

    Args:
        features: of all images, and their labels.
        num_classes: number of classes.
        choice: the head of all images; at all sizes logits are adjusted if its are. Its penalty is chosen anew for each
            size, of `penalties_around` its own.
        num_folds: see `draw_folds`.
        metric: how accuracy is counted.
        groups: images of one are in one fold, and drawn together. Shape: (N,)
        seed: of the first draw; each further one takes the next.
        device: the device that computes.
    """
    labels = features.labels.cpu().numpy()
    num_draws = int(np.clip(10_000 // len(labels), 3, 5))
    folds, penalties = draw_folds(labels, num_folds, num_draws, seed, groups), penalties_around(choice.penalty)
    orders = [draw_order(labels, groups, seed + draw) for draw in range(num_draws)]
    shares = _shares(labels, orders, folds)
    right = np.empty((num_draws, len(shares), len(labels)), bool)
    sizes = np.empty((num_draws, len(shares)))
    for draw, size in track(list(np.ndindex(sizes.shape)), "learning curve"):
        kept, fold_of = orders[draw] < shares[size], folds[draw]
        how = choice.head, penalties, device, choice.logit_adjustment
        found = predict_from_some(features, num_classes, fold_of, kept, *how)
        right[draw, size] = found == labels
        sizes[draw, size] = np.mean([(kept & (fold_of != fold)).sum() for fold in range(num_folds)])
    return Measured(sizes.mean(0), right, labels, groups, metric)


@dataclass(frozen=True)
class PowerLaws:
    """Laws of error = a + b n^-c.

    Attributes:
        parameters: a, b and c of each. Shape: (..., 3)
    """

    parameters: Array

    def accuracy(self, images: Sequence[float] | Array) -> Array:
        """Return the accuracy at each number of images. Shape: (..., len(images))"""
        a, b, c = np.moveaxis(self.parameters[..., None], -2, 0)
        return np.asarray(1 - a - b * np.asarray(images, np.float64) ** -c)


def fit_power_law(images: Array, accuracies: Array, asymptote: bool = True) -> PowerLaws:
    """Return the best law for each row of accuracies, with 0 <= a, 0 <= b and c between 0.02 and 3.

    The i-th size weighs i. With c given the law is linear in a and b, so the best of a grid of c is taken.

    Args:
        images: rising. Shape: (S,)
        accuracies: in [0, 1]. Shape: (..., S)
        asymptote: False: a is 0.
    """
    weights = np.arange(1, len(images) + 1) / len(images)
    x, errors = (images / images[0]) ** -_EXPONENTS[:, None], 1 - accuracies[..., None, :]  # (G, S), (..., 1, S)
    mean_x, mean_e = ((each * weights).sum(-1) / weights.sum() for each in (x, errors))
    through_zero = np.maximum((x * errors * weights).sum(-1) / (x * x * weights).sum(-1), 0)
    a, b = np.zeros_like(through_zero), through_zero
    if asymptote:
        centred = x - mean_x[:, None]
        slope = np.maximum((centred * errors * weights).sum(-1) / (centred * centred * weights).sum(-1), 0)
        free = mean_e - slope * mean_x >= 0
        a, b = np.where(free, mean_e - slope * mean_x, 0), np.where(free, slope, through_zero)
    losses = ((a[..., None] + b[..., None] * x - errors) ** 2 * weights).sum(-1)
    best = losses.argmin(-1)[..., None]
    c = _EXPONENTS[best[..., 0]]
    a, b = (np.take_along_axis(each, best, -1)[..., 0] for each in (a, b))
    return PowerLaws(np.stack([a, b * images[0] ** c, c], -1))


@dataclass(frozen=True)
class Extrapolation:
    """What more images would bring.

    Attributes:
        laws: of each resample, half of them with an asymptote. Shape: (R, 3)
    """

    laws: PowerLaws

    def accuracy(self, images: float) -> tuple[float, Interval]:
        """Return the accuracy with so many images, and its 95% interval."""
        return _summary(self.laws.accuracy([images])[:, 0])

    def gain(self, before: float, after: float) -> tuple[float, Interval]:
        """Return what accuracy gains from one number of images to another, and its 95% interval."""
        return _summary(np.diff(self.laws.accuracy([before, after]))[:, 0])


def _summary(values: Array) -> tuple[float, Interval]:
    low, middle, high = np.quantile(values, [0.025, 0.5, 0.975])
    return float(middle), Interval(float(low), float(high))


def extrapolate(measured: Measured) -> Extrapolation | str:
    """Return the laws that the measured accuracies follow, or in words why there are none."""
    of_draws = measured.accuracy(measured.of_classes)
    accuracies = of_draws.mean(0)
    if len(accuracies) < FEWEST_SIZES:
        return (
            f"a law needs {FEWEST_SIZES} sizes of at least {_PER_CLASS} images per class on average, but there are"
            f" {len(accuracies)}"
        )
    if accuracies[-1] == 1:
        return "all images are predicted right with the photos there are"
    resampled = measured.accuracy(measured.resampled)
    if np.quantile(resampled[:, -1] - resampled[:, 0], 0.025) <= 0:
        rise = f"{100 * (accuracies[-1] - accuracies[0]):+z.1f} points"
        return (
            f"from {measured.sizes[0]:.0f} to {measured.sizes[-1]:.0f} images accuracy changes by {rise}, no more than"
            " the interval"
        )
    error = of_draws.std(0, ddof=1) / np.sqrt(len(of_draws))
    misfit = np.abs(fit_power_law(measured.sizes, accuracies).accuracy(measured.sizes) - accuracies)
    if (wrong := misfit > np.maximum(3 * error, _MOST_MISFIT)).any():
        worst = int(np.flatnonzero(wrong)[np.argmax(misfit[wrong])])
        return (
            f"the accuracies follow no power law: at {measured.sizes[worst]:.0f} images it is off by"
            f" {100 * misfit[worst]:.1f} points"
        )
    half = len(resampled) // 2
    laws = [fit_power_law(measured.sizes, resampled[:half]), fit_power_law(measured.sizes, resampled[half:], False)]
    return Extrapolation(PowerLaws(np.concatenate([each.parameters for each in laws])))
