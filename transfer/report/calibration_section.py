"""The section about calibration: how often an answer of some probability is right, and what rejection brings."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.calibration.calibration import Calibration
from transfer.calibration.conformal import SetFacts
from transfer.calibration.temperature import NUM_BINS, as_probabilities
from transfer.errors import BadValue
from transfer.report.charts import Series, draw_lines
from transfer.report.run_content import RunContent
from transfer.report.verdict import percent

_COVERAGES = (1.0, 0.9, 0.8, 0.5)  # images answered
_OF_SETS = (0.9, 0.95)  # images whose class is to be in a set


def calibration_section(content: RunContent) -> Mapping[str, Any] | None:
    """Return how often answers on val are right, and the errors that are left if doubtful images are rejected."""
    calibration = content.calibration
    if calibration is None:
        return None
    fit = calibration.fit
    changed = fit.temperature != 1
    lines = [Series("ideal", [0, 1], [0, 1], dashed=True)]
    for name, temperature in (("plain", 1.0), (f"temperature {fit.temperature:.2g}", fit.temperature))[: 1 + changed]:
        lines.append(Series(name, *reliability(calibration, temperature)))
    what = "labels that are right" if calibration.multilabel else "answers that are right"
    charts = [draw_lines("Reliability", ("probability", what), lines, percent=True)]
    errors: list[tuple[str, str]] = []
    if not calibration.multilabel:
        coverage, risk = calibration.risk_coverage()
        some = np.unique(np.linspace(0, len(risk) - 1, 200).round().astype(int))
        line = Series("error of what is answered", coverage[some], risk[some])
        charts.append(draw_lines("Risk and coverage", ("images answered", "errors"), [line], percent=True))
        places = [max(round(share * len(risk)) - 1, 0) for share in _COVERAGES]
        errors = [(f"{coverage[place]:.0%}", percent(risk[place])) for place in places]
    return {
        "charts": charts,
        "fit": fit,
        "changed": changed,
        "num_images": len(calibration.logits),
        "errors": errors,
        "sets": _sets(calibration),
    }


def _sets(calibration: Calibration) -> dict[str, SetFacts]:
    """Return what sets of classes are on val, by their coverage in words, where val has enough images for them."""
    sets = {}
    for coverage in _OF_SETS:
        with suppress(BadValue):  # too few images, or several labels per image
            if (facts := calibration.measure_sets(coverage)) is not None:
                sets[f"{coverage:.0%}"] = facts
    return sets


def reliability(calibration: Calibration, temperature: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean probability and the share that is right in each bin that holds an answer. Shapes: (B,), (B,)"""
    probabilities = as_probabilities(calibration.logits / temperature, calibration.multilabel)
    if calibration.multilabel:
        said, right = probabilities.ravel(), calibration.targets.ravel()
    else:
        said, right = probabilities.max(1), probabilities.argmax(1) == calibration.targets
    bins = np.minimum((said * NUM_BINS).astype(int), NUM_BINS - 1)
    count, sums, hits = (np.bincount(bins, weights, NUM_BINS) for weights in (None, said, right))
    held = count > 0
    return sums[held] / count[held], hits[held] / count[held]
