"""Folds of k-fold cross-validation: stratified by class, groups kept together, drawn from a seed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from transfer.errors import BadValue, some_of

Folds = NDArray[np.int64]


def draw_folds(
    labels: NDArray[np.int64] | NDArray[np.bool_],
    folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
    groups: NDArray[np.generic] | None = None,
    class_names: Sequence[str] | None = None,
) -> Folds:
    """Return the fold of each image, in [0, folds), for each repeat. Shape: (R, N)

    Images of one group are in one fold. Folds are stratified by class, as far as the groups allow; those of images with
    several labels are not. Equal arguments give equal folds. Warns of classes that no fold can both train on and test.

    Args:
        labels: class indices, (N,), or whether an image has each label, (N, L).
        folds: number of folds, from 2 to `most_folds`.
        repeats: number of independent draws.
        seed: seed of the first draw; each further one takes the next.
        groups: what the images have in common that may give their class away (a patient, a camera). Shape: (N,)
        class_names: what the warning calls the classes; None: by their indices.

    Raises:
        BadValue: another number of folds, or images of one class only.
    """
    most = most_folds(labels, groups)
    if labels.ndim == 1 and len(np.unique(labels)) < 2:
        raise BadValue(f"`folds`={folds}: all {len(labels)} images are of one class; add images of another")
    if not 2 <= folds <= most:
        limit = "the largest class has that many images" if labels.ndim == 1 else "that many images"
        if groups is not None and most == len(np.unique(groups)):
            limit = "that many groups"
        allowed = f"2 to {most}: {limit}" if most >= 2 else f"none, for want of images: {limit}"
        raise BadValue(f"`folds`={folds} (allowed: {allowed})")
    if labels.ndim == 1:
        _warn_of_lonely_classes(labels.astype(np.int64), groups, class_names)
    return np.stack([_draw(labels, folds, seed + repeat, groups) for repeat in range(repeats)])


def most_folds(labels: NDArray[np.int64] | NDArray[np.bool_], groups: NDArray[np.generic] | None = None) -> int:
    """Return the largest number of folds: images of the largest class, or groups, whichever are fewer."""
    images = int(np.bincount(labels).max()) if labels.ndim == 1 else len(labels)
    return images if groups is None else min(images, len(np.unique(groups)))


def _warn_of_lonely_classes(
    labels: NDArray[np.int64], groups: NDArray[np.generic] | None, class_names: Sequence[str] | None
) -> None:
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    lonely = [label for label in np.unique(labels) if len(np.unique(units[labels == label])) < 2]
    if lonely:
        what = "a single image" if groups is None else "images of a single group"
        warnings.warn(
            f"classes with {what} count as wrong in cross-validation, as no other fold has them:"
            f" {some_of(str(label) if class_names is None else class_names[label] for label in lonely)}",
            stacklevel=3,
        )


def _draw(
    labels: NDArray[np.int64] | NDArray[np.bool_], folds: int, seed: int, groups: NDArray[np.generic] | None
) -> Folds:
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if labels.ndim == 1:
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    else:
        kind = KFold if groups is None else GroupKFold
    found = np.full(len(labels), -1, np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # its images are in fewer folds
        splits = kind(folds, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels, groups)
        for fold, (_, held_out) in enumerate(splits):
            found[held_out] = fold
    return found
