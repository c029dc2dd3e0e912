"""Which images get no answer: those that rank lowest among the images of val.

An image's rank is the share of val that is at most as sure. For a stranger, which has a distance to its neighbours that
at most 2.5% of val reach, it is that share if that is lower. So an image is left unanswered for being unlike all images
of val, or for a doubtful class. Further down, distance has no say: it tells right answers from wrong ones badly
(`benchmarks/calibration_cpu.json`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.errors import BadValue

Floats = NDArray[np.floating[Any]]

STRANGE = 0.025  # share of val from which on distance has no say
CONFIDENCE = 0.95  # that the error is at most what was asked


@dataclass(frozen=True)
class Acceptance:
    """From which rank on an image is answered, and what that is on val.

    Attributes:
        threshold: the lowest rank that is answered, in [0, 1].
        coverage: share of val that is answered.
        error: share of the answers on val that are wrong; None where an image may have several labels.
    """

    threshold: float
    coverage: float
    error: float | None


def ranks(values: Floats, of_val: Floats) -> NDArray[np.float64]:
    """Return for each value the share of val whose values are at most as high."""
    return np.searchsorted(np.sort(of_val), values, side="right") / len(of_val)


def combined_ranks(by_probability: Floats, by_distance: Floats) -> NDArray[np.float64]:
    """Return ranks by what speaks most against an answer; see the module."""
    return np.minimum(by_probability, np.where(by_distance < STRANGE, by_distance, 1.0))


def accept_share(ranks_of_val: Floats, wrong: NDArray[np.bool_] | None, coverage: float) -> Acceptance:
    """Return the threshold that leaves at least this share of images like val answered.

    It is a quantile with the correction of split conformal prediction for so many images: over draws of val, the mean
    share of other images that are answered is at least `coverage`.

    Raises:
        BadValue: val has too few images for it.
    """
    _check_share("coverage", coverage)
    count = len(ranks_of_val)
    needed = math.ceil((count + 1) * coverage)
    if needed > count:
        raise BadValue(too_few("coverage", coverage, count))
    return _acceptance(ranks_of_val, wrong, float(np.sort(ranks_of_val)[::-1][needed - 1]))


def accept_error(ranks_of_val: Floats, wrong: NDArray[np.bool_], max_error: float) -> Acceptance:
    """Return the lowest threshold above which answers are wrong at most this often, with 95% confidence.

    Selection with guaranteed risk (Geifman & El-Yaniv 2017, arXiv 1705.08500): a binary search over thresholds, each
    tested with Clopper and Pearson's bound at its share of the 5%. It holds for images drawn like val, and for ranks
    that are settled before val is seen; here temperature and neighbours come from val, too.

    Raises:
        BadValue: no threshold is known to reach it; the message says what would be needed.
    """
    _check_share("max_error", max_error)
    count = len(wrong)
    steps = max(1, math.ceil(math.log2(count)))
    level = (1 - CONFIDENCE) / steps
    order = np.sort(ranks_of_val)[::-1]
    fewest, most, found = 1, count, None
    lowest = 1.0
    for _ in range(steps):
        middle = math.ceil((fewest + most) / 2)
        tried = _acceptance(ranks_of_val, wrong, float(order[middle - 1]))
        bound = error_bound(int(wrong[ranks_of_val >= tried.threshold].sum()), round(tried.coverage * count), level)
        lowest = min(lowest, bound)
        if bound <= max_error:
            fewest, found = middle, tried
        else:
            most = middle
    if found is None:
        alone = math.ceil(math.log(level) / math.log1p(-max_error))
        raise BadValue(
            f"`max_error`={max_error:g}: no threshold is known to reach it with {CONFIDENCE:.0%} confidence; of"
            f" {count} val images the lowest bound is {lowest:.3f}, and at least {alone} without an error are needed"
            " (give a higher `max_error`, or a `coverage`)"
        )
    return found


def error_bound(errors: int, count: int, level: float) -> float:
    """Return the upper bound of a rate by Clopper and Pearson: above it with probability at most `level`."""
    from scipy.special import betaincinv  # takes a while, and only an error rate needs it

    return 1.0 if errors >= count else float(betaincinv(errors + 1, count - errors, 1 - level))


def risk_coverage(ranks_of_val: Floats, wrong: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coverage and error of val when only its n highest ranks are answered, for n = 1..N. Shape: (N,), (N,)"""
    order = np.argsort(-ranks_of_val, kind="stable")
    answered = np.arange(1, len(order) + 1)
    return answered / len(order), np.cumsum(wrong[order]) / answered


def too_few(argument: str, share: float, count: int) -> str:
    """Return why so few images of val cannot promise a share."""
    needed = math.ceil(round(share / (1 - share), 9))
    return (
        f"`{argument}`={share:g}: too few val images for it: at least {needed:,} are needed, the run has {count:,}"
        f" (allowed here: up to {math.floor(1e4 * count / (count + 1)) / 1e4:g})"
    )


def _acceptance(ranks_of_val: Floats, wrong: NDArray[np.bool_] | None, threshold: float) -> Acceptance:
    answered = ranks_of_val >= threshold
    error = None if wrong is None else float(wrong[answered].mean())
    return Acceptance(threshold, float(answered.mean()), error)


def _check_share(argument: str, value: float) -> None:
    if not 0 < value < 1:
        raise BadValue(f"`{argument}`={value:g} (allowed: above 0 and below 1)")
