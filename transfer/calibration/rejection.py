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

from transfer.calibration.quantiles import check_share, place
from transfer.errors import BadValue

Floats = NDArray[np.floating[Any]]

STRANGE = 0.025  # share of val from which on distance has no say
CONFIDENCE = 0.95  # that the error is at most what was asked
_THRESHOLDS = 20  # that are tested for it


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


def ranks(values: Floats, of_val: Floats, own: int = 0) -> NDArray[np.float64]:
    """Return for each value the share of val whose values are at most as high, less `own` images."""
    return (np.searchsorted(np.sort(of_val), values, side="right") - own) / len(of_val)


def combined_ranks(by_probability: Floats, by_distance: Floats) -> NDArray[np.float64]:
    """Return ranks by what speaks most against an answer; see the module."""
    return np.minimum(by_probability, np.where(by_distance < STRANGE, by_distance, 1.0))


def accept_share(ranks_of_val: Floats, wrong: NDArray[np.bool_] | None, coverage: float) -> Acceptance:
    """Return the threshold that leaves at least this share of images like val answered.

    It is a quantile with the correction of split conformal prediction for so many images: over draws of val, the mean
    share of other images that are answered is at least `coverage`. That holds for one score, where an image of val
    counts itself and a further one does not; with two, val's images must not count themselves in the second, or
    further images would more often be strange.

    Args:
        ranks_of_val: by two scores, combined of ranks of which the second have `own=1`.
        wrong: which answers are wrong; None where an image may have several labels.
        coverage: in (0, 1).

    Raises:
        BadValue: val has too few images for it.
    """
    count = len(ranks_of_val)
    check_share("coverage", coverage, count)
    return _acceptance(ranks_of_val, wrong, float(np.sort(ranks_of_val)[::-1][place(count, coverage) - 1]))


def accept_error(ranks_of_val: Floats, wrong: NDArray[np.bool_], max_error: float) -> Acceptance:
    """Return the lowest threshold above which answers are wrong at most this often, with 95% confidence.

    Selection with guaranteed risk (Geifman & El-Yaniv 2017, arXiv 1705.08500), with their bound, Clopper and Pearson's,
    for the thresholds that answer 5%, 10%, ... 100% of val, each at a twentieth of the 5%, in place of their binary
    search: it ends in the wrong half where the bound is not monotone. It holds for images drawn like val, and for ranks
    that are settled before val is seen; here temperature and neighbours come from val, too.

    Raises:
        BadValue: no threshold is known to reach it; the message says what would be needed.
    """
    check_share("max_error", max_error)
    count, order = len(wrong), np.sort(ranks_of_val)[::-1]
    level = (1 - CONFIDENCE) / _THRESHOLDS
    lowest = 1.0
    for step in range(_THRESHOLDS, 0, -1):
        tried = _acceptance(ranks_of_val, wrong, float(order[math.ceil(step / _THRESHOLDS * count) - 1]))
        answered = ranks_of_val >= tried.threshold
        bound = error_bound(int(wrong[answered].sum()), int(answered.sum()), level)
        if bound <= max_error:
            return tried
        lowest = min(lowest, bound)
    alone = math.ceil(math.log(level) / math.log1p(-max_error))
    raise BadValue(
        f"`max_error`={max_error:g}: no threshold is known to reach it with {CONFIDENCE:.0%} confidence: of {count:,}"
        f" val images the lowest bound is {lowest:.3f}, and at least {alone:,} without an error are needed (give a"
        " higher `max_error`, or a `coverage`)"
    )


def error_bound(errors: int, count: int, level: float) -> float:
    """Return the upper bound of a rate by Clopper and Pearson: above it with probability at most `level`."""
    from scipy.special import betaincinv  # takes a while, and only an error rate needs it

    return 1.0 if errors >= count else float(betaincinv(errors + 1, count - errors, 1 - level))


def risk_coverage(ranks_of_val: Floats, wrong: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coverage and error of val when only its n highest ranks are answered, for n = 1..N. Shape: (N,), (N,)"""
    order = np.argsort(-ranks_of_val, kind="stable")
    answered = np.arange(1, len(order) + 1)
    return answered / len(order), np.cumsum(wrong[order]) / answered


def _acceptance(ranks_of_val: Floats, wrong: NDArray[np.bool_] | None, threshold: float) -> Acceptance:
    answered = ranks_of_val >= threshold
    error = None if wrong is None else float(wrong[answered].mean())
    return Acceptance(threshold, float(answered.mean()), error)
