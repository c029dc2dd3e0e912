"""The temperature that makes probabilities as high as they are right (Guo et al. 2017, arXiv 1706.04599).

Logits are divided by one number, which minimises the loss on val and changes no answer. What it gains is measured by
cross-fitting: each fold of val by the temperature of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Targets = NDArray[np.int64] | NDArray[np.bool_]

NUM_BINS = 15  # as Guo et al.
_LOWEST, _HIGHEST = 0.001, 10.0  # a probe that val gives a strong penalty leaves nearly equal logits: 0.02


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and what it gains on images that it was not fitted to.

    Attributes:
        temperature: what logits are divided by; 1 where the fitted one brings no gain.
        fitted: the temperature with the lowest loss, between 0.001 and 10.
        by_fold: of each fold of val, the temperature for it, fitted to the others; 1 where `temperature` was set to 1.
        ece_before, ece_after: expected calibration error in [0, 1] at temperature 1 and, cross-fitted, at `by_fold`.
        nll_before, nll_after: the loss, likewise, in nats.
    """

    temperature: float
    fitted: float
    by_fold: tuple[float, ...]
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float


def fit_temperature(logits: Floats, targets: Targets) -> TemperatureFit:
    """Return the temperature of these images; it is 1 unless loss and calibration error fall on images left out.

    It is 1, too, where the lowest loss lies at an end of what is searched: of answers that are all right, any lower
    temperature has a lower loss.

    Args:
        logits: float (N, C), N at least 2.
        targets: class indices (N,), or which labels an image has, bool (N, C).
    """
    fold = folds(len(logits))
    fitted = _lowest(logits, targets)
    by_fold = tuple(_lowest(logits[fold != i], targets[fold != i]) for i in range(num_folds(len(logits))))
    held_out = logits / np.array(by_fold)[fold, None]
    ece = [expected_calibration_error(as_probabilities(z, targets.ndim == 2), targets) for z in (logits, held_out)]
    nll = [mean_loss(z, targets) for z in (logits, held_out)]
    if is_inside(fitted) and ece[1] <= ece[0] and nll[1] < nll[0]:
        return TemperatureFit(fitted, fitted, by_fold, *ece, *nll)
    return TemperatureFit(1.0, fitted, (1.0,) * len(by_fold), ece[0], ece[0], nll[0], nll[0])


def is_inside(temperature: float) -> bool:
    """Return whether a fitted temperature is the best one, and no end of what is searched."""
    return _LOWEST * 1.01 < temperature < _HIGHEST / 1.01


def folds(num_images: int) -> NDArray[np.int64]:
    """Return the fold of each image, in 0..4, drawn at random and of equal sizes; the same in every call."""
    return np.random.default_rng(0).permutation(num_images) % num_folds(num_images)


def num_folds(num_images: int) -> int:
    """Return the number of folds of so many images: 5, or of fewer images as many as these."""
    return min(5, num_images)


def _lowest(logits: Floats, targets: Targets) -> float:
    from scipy.optimize import minimize_scalar  # takes a while, and only a fit needs it

    is_right = (logits > 0) == targets if targets.ndim == 2 else logits.argmax(1) == targets
    if is_right.all():  # computed losses fall to 0 before the end
        return _LOWEST
    # The loss is convex in 1 / temperature, so it has one minimum over the logarithm, too.
    bounds = np.log(_LOWEST), np.log(_HIGHEST)
    found = minimize_scalar(lambda log: mean_loss(logits / np.exp(log), targets), bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def as_probabilities(logits: Floats, multilabel: bool) -> NDArray[np.float64]:
    """Return logits (N, C) as probabilities: softmax, or the sigmoid of each where an image may have several labels."""
    logits = np.asarray(logits, np.float64)
    if multilabel:
        return np.exp(-np.logaddexp(0, -logits))
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def mean_loss(logits: Floats, targets: Targets) -> float:
    """Return the mean cross-entropy in nats; with several labels, the mean over labels of the binary one."""
    logits = np.asarray(logits, np.float64)
    if targets.ndim == 2:
        return float((np.logaddexp(0, logits) - targets * logits).mean())
    highest = logits.max(1)
    norm = highest + np.log(np.exp(logits - highest[:, None]).sum(1))
    return float((norm - logits[np.arange(len(targets)), targets]).mean())


def expected_calibration_error(probabilities: Floats, targets: Targets) -> float:
    """Return the expected calibration error in 15 bins of equal width, in [0, 1], as torchmetrics defines it.

    Args:
        probabilities: (N, C).
        targets: class indices (N,): the most probable class is judged; or bool (N, C): every label is.
    """
    if targets.ndim == 2:
        confidence, is_right = probabilities.ravel(), targets.ravel()
    else:
        confidence, is_right = probabilities.max(1), probabilities.argmax(1) == targets
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    return float(np.abs(np.bincount(bins, is_right - confidence, NUM_BINS)).sum() / len(confidence))
