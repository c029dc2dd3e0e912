"""The flags of `predict` by which images are left unanswered or get a set of classes, and what is said of it."""

from __future__ import annotations

import argparse
import sys

from transfer.calibration.calibration import Calibration
from transfer.calibration.guarantees import UNKNOWN, Guarantees
from transfer.errors import BadValue

DEFAULT_COVERAGE = 0.95


def add_guarantees(parser: argparse.ArgumentParser) -> None:
    """Add the flags; see `read_guarantees`."""
    add = parser.add_argument
    add("--abstain", action="store_true", help="the class of a doubtful or strange image is `unknown`")
    coverage = f"with --abstain: share of images like val's that get an answer; default: {DEFAULT_COVERAGE}"
    add("--coverage", type=float, metavar="SHARE", help=coverage)
    error = "with --abstain: highest share of wrong answers, promised with 95%% confidence"
    add("--max_error", type=float, metavar="SHARE", help=error)
    add("--sets", type=float, metavar="SHARE", help="add a set of classes that holds the right one so often, as 0.95")


def read_guarantees(
    abstain: bool = False, coverage: float | None = None, max_error: float | None = None, sets: float | None = None
) -> Guarantees:
    """Return what the flags demand.

    Args:
        abstain: whether the class of a doubtful or strange image is `unknown`.
        coverage, max_error: by which rule, see `Guarantees`; by default coverage 0.95.
        sets: probability with which a set of classes holds the right one; None: no sets.

    Raises:
        BadValue: they contradict each other.
    """
    for name, value in (("coverage", coverage), ("max_error", max_error)):
        if value is not None and not abstain:
            raise BadValue(f"`{name}`={value:g} without `abstain`: no image is left unanswered (add `abstain`)")
    if coverage is not None and max_error is not None:
        raise BadValue(f"`coverage`={coverage:g} with `max_error`={max_error:g}: give one of them")
    if abstain and max_error is None and coverage is None:
        coverage = DEFAULT_COVERAGE
    return Guarantees(coverage, max_error, sets)


def report_temperature(temperature: float) -> None:
    """Say on stderr which temperature is in the probabilities, if it is not 1."""
    if temperature != 1:
        print(f"probabilities calibrated on val: temperature {temperature:.3f}", file=sys.stderr)


def report_certainty(calibration: Calibration, guarantees: Guarantees, num_unknown: int, num_images: int) -> None:
    """Say on stderr how many images are unknown, and by which rules."""
    if guarantees.abstain:
        print(f"{num_unknown} of {num_images} images are {UNKNOWN}", file=sys.stderr)
    for line in guarantees.describe(calibration):
        print(line, file=sys.stderr)
