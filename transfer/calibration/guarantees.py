"""What a user may demand of a network's answers, and the predictions that keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.calibration.calibration import Calibration
from transfer.calibration.conformal import SetFacts
from transfer.calibration.rejection import CONFIDENCE
from transfer.errors import BadValue
from transfer.predictions import Prediction

Floats = NDArray[np.floating[Any]]


UNKNOWN = "unknown"  # what stands in place of a class


@dataclass(frozen=True)
class Guarantees:
    """What is demanded; nothing by default.

    Attributes:
        coverage: share of images like val's that are answered; the others are unknown.
        max_error: share of wrong answers that is exceeded with a probability of 5%; others are unknown.
        sets: probability with which a set of classes holds an image's own.
    """

    coverage: float | None = None
    max_error: float | None = None
    sets: float | None = None

    @property
    def abstain(self) -> bool:
        """Whether images may be unknown."""
        return self.coverage is not None or self.max_error is not None

    def __bool__(self) -> bool:
        return self.abstain or self.sets is not None

    def check(self, calibration: Calibration, class_names: Sequence[str]) -> None:
        """Check that val can promise what is demanded, before any image is computed.

        Raises:
            BadValue: it cannot, or a class is called `unknown` itself.
        """
        if self.abstain and UNKNOWN in class_names:
            raise BadValue(f"`abstain`: a class of the run is called {UNKNOWN!r}: nobody could tell them apart")
        self.describe(calibration)

    def describe(self, calibration: Calibration) -> list[str]:
        """Return by which rules images are unknown and sets are made, and what these are on val.

        Raises:
            BadValue: val cannot promise it.
        """
        lines, count = [], f"{len(calibration.logits):,} val images"
        if self.abstain:
            found = calibration.acceptance(self.coverage, self.max_error)
            error = "" if found.error is None else f", {found.error:.1%} of these answers are wrong"
            promise = (
                "" if self.max_error is None else f" (at most {self.max_error:g}, with {CONFIDENCE:.0%} confidence)"
            )
            kind = "distance" if calibration.multilabel else "probability or distance"
            lines.append(
                f"unknown is what ranks below {found.threshold:.3f} among {count} by {kind}; of these,"
                f" {found.coverage:.1%} are answered{error}{promise}"
            )
        if self.sets is not None:
            facts = calibration.measure_sets(self.sets)
            lines.append(f"sets of {self.sets:g}: of {count}, {_describe_sets(facts)}")
        return lines


def _describe_sets(facts: SetFacts | None) -> str:
    if facts is None:
        return "too few to measure by cross-fitting how often they hold the class"
    own = f", {facts.own_quantiles} classes by their own images" if facts.own_quantiles else ""
    return (
        f"cross-fitted, {facts.coverage:.1%} have their class in the set, of {facts.mean_size:.2f} classes on"
        f" average{own}"
    )


def keep(
    guarantees: Guarantees,
    calibration: Calibration,
    predictions: Sequence[Prediction],
    logits: Floats,
    features: Floats,
    class_names: Sequence[str],
) -> list[Prediction]:
    """Return predictions with what the guarantees ask for: whether they are unknown, and their sets.

    Args:
        guarantees: what is demanded.
        calibration: of the network.
        predictions: of N images.
        logits: (N, C).
        features: pooled, (N, F).
        class_names: names of the classes.

    Raises:
        BadValue: val cannot promise it.
    """
    found = list(predictions)
    if guarantees.abstain:
        rejected = calibration.rejected(logits, features, guarantees.coverage, guarantees.max_error)
        found = [replace(p, unknown=bool(is_rejected)) for p, is_rejected in zip(found, rejected, strict=True)]
    if guarantees.sets is not None:
        sets = calibration.sets(logits, guarantees.sets)
        found = [
            replace(p, class_set=tuple(class_names[i] for i in chosen)) for p, chosen in zip(found, sets, strict=True)
        ]
    return found
