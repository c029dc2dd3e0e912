"""Which images are held out of train: decided by their content alone, so every source of a dataset gives the same."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.dataset.split import Split
from transfer.errors import BadValue

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
    order = np.argsort(_draws(_units(split), name), kind="stable")
    held = np.zeros(len(split), bool)
    for label, wanted in zip(classes, shares, strict=True):
        held[order[strata[order] == label][:wanted]] = True
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))


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
