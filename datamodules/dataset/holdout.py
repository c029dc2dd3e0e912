"""Which images are held out of train, or left out: their content alone decides, so every source gives the same."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.dataset.split import Split
from transfer.errors import BadValue, some_of
from transfer.folds import draw_folds

# A class with fewer expected images need not be in the part that is held out.
_LEAST_EXPECTED = 0.5


def hold_out(split: Split, share: float, name: str) -> tuple[Split, Split]:
    """Return what remains, and about a share of the images cut from it: those whose draw is below `share`.

    An image's draw is a hash of its content and `name`; one of a group, of the group instead. So equal images, and
    those of a group, stay together, and images that are added later take none out of what remains. The bounds are the
    exception: of a class at least half its share is held out (one image, if half an image can be expected) and at most
    twice its share, and every label keeps an image in what remains. Where the draws are that uneven, the next lowest or
    highest decide, and a class that grows by n images may lose up to 1 + 2 * `share` * n of what remained before.

    Args:
        split: The images.
        share: Expected share of the images, above 0 and below 1.
        name: Name of the split that is cut; others are drawn independently.

    Raises:
        UserError: Not one image can be held out without taking a label's last one.
    """
    units, unit_of = np.unique(_units(split), return_inverse=True)
    draw_of = _draws(units, name)
    draws = draw_of[unit_of]
    held = draws < share
    strata = _strata(split.labels)
    for stratum in np.unique(strata):
        _bound(held, np.flatnonzero(strata == stratum), draws, unit_of, share)
    held = _give_back(held, draws, split.labels, unit_of)
    for unit in np.argsort(draw_of):
        if held.any():
            break
        held = _give_back(unit_of == unit, draws, split.labels, unit_of)
    if not held.any():
        raise BadValue(
            f"{split.name}: cannot hold out one of {len(split)} images for {name} and leave one of each class, with"
            f" {len(units)} different images or groups; add images, or give val and test splits of your own"
        )
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))


def hold_out_exactly(split: Split, size: int, name: str) -> tuple[Split, Split]:
    """Return what remains, and `size` images cut from it, stratified by class: those with the lowest draws.

    Shares are proportional to the class sizes (largest remainders), and every class keeps at least one image in what
    remains. An image with several labels counts as one of its rarest class.

    Args:
        split: The images, of a dataset that does not grow.
        size: How many are held out.
        name: Name of the split that is cut; see `hold_out`.

    Raises:
        UserError: The classes are too small for that many.
    """
    held = _lowest_exactly(split, size, name)
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))


def cut_fold(split: Split, folds: int, fold: int, draw: int, class_names: Sequence[str]) -> tuple[Split, Split]:
    """Return what remains, and one of the folds that the images are cut into; see `transfer.folds.draw_folds`.

    Equal images are in one fold, unless the images have groups, which then decide alone.

    Args:
        split: The images.
        folds: How many there are.
        fold: Which one, from 0.
        draw: Seed of the folds.
        class_names: For the warning of classes that a single fold has.

    Raises:
        BadValue: There are too few images or groups for so many folds.
    """
    values, groups, unit_of = fold_units(split)
    (fold_of,) = draw_folds(values, folds, seed=draw, groups=groups, class_names=class_names)[:, unit_of]
    return split.select(np.flatnonzero(fold_of != fold)), split.select(np.flatnonzero(fold_of == fold))


def fold_units(
    split: Split,
) -> tuple[NDArray[np.int64] | NDArray[np.bool_], NDArray[np.str_] | None, NDArray[np.int64]]:
    """Return what is drawn into folds, its labels and groups as `draw_folds` takes them, and the unit of each image.

    A unit is an image, or without groups all images that are equal.
    """
    values = split.labels.numpy() if split.labels.ndim == 1 else split.labels.numpy() > 0
    if split.groups is not None:
        return values, split.groups, np.arange(len(split))
    _, first, unit_of = np.unique(split.ids(), return_index=True, return_inverse=True)
    return values[first], None, unit_of


def keep_per_class(split: Split, count: int, draw: int, class_names: Sequence[str]) -> Split:
    """Return so many images of each class, and of a class with fewer all of them, with a warning.

    The images of a larger `count` contain those of a smaller one. Groups are kept whole, but for one of each class.

    Args:
        split: The images, with one label each.
        count: At least 1.
        draw: Seed of the draw.
        class_names: For the warning.
    """
    labels = split.labels.numpy()
    counts = np.bincount(labels, minlength=len(class_names))
    if fewer := [f"{name} ({n})" for name, n in zip(class_names, counts, strict=True) if n < count]:
        warnings.warn(
            f"fewer than {count} training images of {len(fewer)} of {len(class_names)} classes, which keep all they"
            f" have: {some_of(fewer)}",
            stacklevel=4,
        )
    kept, _ = split_per_class(split, count, f"draw {draw}")
    return kept


def split_per_class(split: Split, count: int, name: str) -> tuple[Split, Split]:
    """Return so many images of each class, or all of a smaller one, and the others: those with the lowest draws.

    Args:
        split: The images, with one label each.
        count: At least 1.
        name: Name of the draw; see `hold_out`.
    """
    labels = split.labels.numpy()
    left = np.maximum(np.bincount(labels) - count, 0)
    held = _lowest(_draws(_units(split), name), labels, dict(enumerate(left)))
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))


def keep_fraction(split: Split, share: float, draw: int) -> Split:
    """Return a share of the images, stratified as in `hold_out_exactly`: at least one of each class or label.

    Groups are kept whole, but for one of each class.

    Args:
        split: The images.
        share: Above 0, at most 1; each class that would have less than one image makes it larger.
        draw: Seed of the draw.
    """
    size = max(round(share * len(split)), len(np.unique(_strata(split.labels))))
    if size == len(split):
        return split
    name = f"draw {draw}"
    held = _lowest_exactly(split, len(split) - size, name)
    held = _give_back(held, _draws(_units(split), name), split.labels, np.arange(len(split)))
    return split.select(np.flatnonzero(~held))


def _units(split: Split) -> NDArray[np.uint64]:
    """Return what must stay together as equal numbers: the id of each image, or of its group. Shape: (N,)"""
    if split.groups is None:
        return split.ids()
    digests = [hashlib.blake2b(str(group).encode(), digest_size=8).digest() for group in split.groups]
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)


def _draws(units: NDArray[np.uint64], name: str) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each unit: uniform, but the same in every run, and independent for each name."""
    person = name.encode()
    digests = [hashlib.blake2b(unit.tobytes(), digest_size=8, person=person).digest() for unit in units.astype(">u8")]
    return np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests])


def _lowest_exactly(split: Split, size: int, name: str) -> NDArray[np.bool_]:
    strata = _strata(split.labels)
    classes, counts = np.unique(strata, return_counts=True)
    exact = counts * size / max(len(split), 1)
    shares = np.minimum(np.floor(exact).astype(np.int64), counts - 1)
    if not 1 <= size <= (counts - 1).sum():
        raise BadValue(
            f"{split.name}: cannot hold out {size} of {len(split)} images in {len(classes)} classes and "
            "leave one of each class for training; add images, or give val and test splits of your own"
        )
    by_remainder = np.argsort(shares - exact, kind="stable")
    while shares.sum() < size:
        for position in by_remainder:
            shares[position] += shares.sum() < size and shares[position] < counts[position] - 1
    return _lowest(_draws(_units(split), name), strata, dict(zip(classes.tolist(), shares.tolist(), strict=True)))


def _lowest(draws: NDArray[np.float64], strata: NDArray[np.int64], wanted: Mapping[int, int]) -> NDArray[np.bool_]:
    """Return whether an image has one of the lowest draws of its class, of which so many are wanted. Shape: (N,)"""
    order = np.argsort(draws, kind="stable")
    lowest = np.zeros(len(draws), bool)
    for label, count in wanted.items():
        lowest[order[strata[order] == label][:count]] = True
    return lowest


def _bound(
    held: NDArray[np.bool_],
    members: NDArray[np.int64],
    draws: NDArray[np.float64],
    unit_of: NDArray[np.int64],
    share: float,
) -> None:
    """Hold out at least half and at most twice its share of a class, or a single group; `held` is changed in place."""
    expected = share * len(members)
    least, most = max(int(expected >= _LEAST_EXPECTED), int(expected / 2)), max(1, math.ceil(2 * expected))
    members = members[np.argsort(draws[members], kind="stable")]
    for image in members:
        if held[members].sum() >= least:
            break
        held[unit_of == unit_of[image]] = True
    for image in members[::-1]:
        chosen = members[held[members]]
        if len(chosen) <= most or len(np.unique(unit_of[chosen])) == 1:
            break
        held[unit_of == unit_of[image]] = False


def _give_back(
    held: NDArray[np.bool_], draws: NDArray[np.float64], labels: Tensor, unit_of: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return `held` without the units of the highest draws that a label needs to keep an image in what remains."""
    held, values = held.copy(), labels.numpy()
    if labels.ndim == 1:
        lost = [values == label for label in np.setdiff1d(values, values[~held])]
    else:
        lost = [column > 0 for column in values.T if (column > 0).any() and held[column > 0].all()]
    for members in lost:
        if held[members].all():  # a label before it may have brought one back
            held[unit_of == unit_of[np.flatnonzero(members)[draws[members].argmax()]]] = False
    return held


def _strata(labels: Tensor) -> NDArray[np.int64]:
    if labels.ndim == 1:
        return labels.numpy()
    frequency = labels.sum(dim=0)
    rarest = torch.where(labels > 0, frequency, torch.inf).argmin(dim=1)
    return torch.where(labels.any(dim=1), rarest, -1).numpy()
