"""Shares that a finite number of images can promise of further ones: split conformal prediction's quantiles."""

from __future__ import annotations

import math

from transfer.errors import BadValue

_ROUNDING = 1e-6  # of shares such as 0.95, which are no binary fractions


def place(count: int, share: float) -> int:
    """Return which of so many sorted values bounds a further one with this probability, from 1; over `count`: none."""
    return math.ceil((count + 1) * share - _ROUNDING)


def images_needed(share: float) -> int:
    """Return the lowest count for which there is such a value."""
    return math.ceil(share / (1 - share) - _ROUNDING)


def check_share(argument: str, share: float, count: int | None = None) -> None:
    """Check that a share lies between 0 and 1, and that so many images of val can promise it.

    Raises:
        BadValue: it does not, or they cannot.
    """
    if not 0 < share < 1:
        raise BadValue(f"`{argument}`={share:g} (allowed: above 0 and below 1)")
    if count is not None and place(count, share) > count:
        raise BadValue(
            f"`{argument}`={share:g}: too few val images for it: at least {images_needed(share):,} are needed, the run"
            f" has {count:,} (allowed here: up to {math.floor(1e4 * count / (count + 1)) / 1e4:g})"
        )
