"""Sets of classes that hold an image's own class with a promised probability: split conformal prediction.

Angelopoulos & Bates 2021 (arXiv 2107.07511), sections 1 and 4.2: a class belongs to the set if its score, 1 minus its
probability, is at most that of a quantile of val's own classes. The promise holds over draws of val and of the image,
for images drawn like val. The most probable class always belongs: an empty set would tell nobody anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.calibration.quantiles import images_needed, place

Floats = NDArray[np.floating[Any]]

# From so many images on, a class has a quantile of its own: the share that its sets cover then lies about 2 points
# around 95%, and 3 around 90% (the standard deviation over draws of val; Angelopoulos & Bates, section 3.2).
OWN_QUANTILE = 100


@dataclass(frozen=True)
class SetFacts:
    """What sets are on val, each image judged by the other folds.

    Attributes:
        coverage: share of the images whose class is in the set.
        mean_size: mean number of classes in a set.
        own_quantiles: number of classes with a quantile of their own.
    """

    coverage: float
    mean_size: float
    own_quantiles: int


def class_groups(targets: NDArray[np.int64], num_classes: int, coverage: float) -> NDArray[np.int64]:
    """Return the group of each class, within which the promise holds. Shape: (C,)

    A class with at least 100 images of val, or as many as the coverage needs, is a group; the others are one together.
    If those have fewer images than that, all classes are one group.
    """
    least = max(OWN_QUANTILE, images_needed(coverage))
    counts = np.bincount(targets, minlength=num_classes)
    is_small = counts < least
    if is_small.any() and counts[is_small].sum() < least:
        return np.zeros(num_classes, np.int64)
    groups: NDArray[np.int64] = np.where(is_small, 0, np.cumsum(~is_small))
    return groups


def limits(
    probabilities: Floats, targets: NDArray[np.int64], groups: NDArray[np.int64], coverage: float
) -> NDArray[np.float64]:
    """Return the highest score at which each class belongs to a set; infinite for a group with too few images.

    Args:
        probabilities: of val, (N, C).
        targets: of val, (N,).
        groups: see `class_groups`.
        coverage: in (0, 1).
    """
    scores = 1 - probabilities[np.arange(len(targets)), targets]
    highest = np.full(groups.max() + 1, np.inf)
    for group in np.unique(groups):
        mine = np.sort(scores[groups[targets] == group])
        number = place(len(mine), coverage)
        if number <= len(mine):
            highest[group] = mine[number - 1]
    return highest[groups]


def in_set(probabilities: Floats, class_limits: Floats) -> NDArray[np.bool_]:
    """Return which classes belong to each image's set. Shape: (N, C)"""
    member = 1 - probabilities <= class_limits
    member[np.arange(len(member)), probabilities.argmax(1)] = True
    return member


def measure_sets(
    probabilities: Floats, targets: NDArray[np.int64], fold: NDArray[np.int64], coverage: float
) -> SetFacts | None:
    """Return what the sets are on val, those of each fold by the limits of the others; None if these are too few.

    Args:
        probabilities: of val, each image's by the temperature of the other folds. Shape: (N, C)
        targets: (N,).
        fold: of each image, (N,).
        coverage: in (0, 1).
    """
    groups = class_groups(targets, probabilities.shape[1], coverage)
    member = np.zeros(probabilities.shape, np.bool_)
    for i in np.unique(fold):
        others = fold != i
        class_limits = limits(probabilities[others], targets[others], groups, coverage)
        if not np.isfinite(class_limits).all():
            return None
        member[~others] = in_set(probabilities[~others], class_limits)
    held = member[np.arange(len(targets)), targets]
    sizes = np.bincount(groups)
    own = 0 if len(sizes) == 1 else int((np.delete(sizes, 0) > 0).sum())
    return SetFacts(float(held.mean()), float(member.sum(1).mean()), own)
