"""What a run's val split says about the answers of its network, in one value and one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.calibration.conformal import SetFacts, class_groups, in_set, limits, measure_sets
from transfer.calibration.neighbours import neighbour_distances, on_sphere
from transfer.calibration.quantiles import check_share
from transfer.calibration.rejection import Acceptance, accept_error, accept_share, combined_ranks, ranks, risk_coverage
from transfer.calibration.temperature import TemperatureFit, as_probabilities, fit_temperature, folds
from transfer.errors import BadValue, DamagedFile

Floats = NDArray[np.floating[Any]]

NEIGHBOUR = 5  # which one's distance counts
MOST_REFERENCES = 2_000  # 5 MB of 1,280 features
_MANY_LOGITS = 2**22  # 16 MB, from which on 2,000 images are enough
_MOST_NUMBERS = 2**25  # logits, or features: 128 MiB, so that no file exceeds what is read


@dataclass(frozen=True, eq=False)
class Calibration:
    """How sure the answers of a network are, from N images of val that it was not trained on, with C classes.

    Temperature, thresholds and sets come from the same images. Strictly, promises hold for a temperature settled
    before; as it is one number and changes no answer, no images are set aside for it.

    Attributes:
        fit: the temperature, and what it gains.
        logits: float32 (N, C).
        targets: class indices, int64 (N,); with several labels per image, bool (N, C).
        distances: of each image to its neighbour among the other references, float32 (N,).
        references: features of up to 2,000 of the images, on the unit sphere, float16 (R, F).
        network: digest of the head whose answers these are.
    """

    fit: TemperatureFit
    logits: NDArray[np.float32] = field(repr=False)
    targets: NDArray[Any] = field(repr=False)
    distances: NDArray[np.float32] = field(repr=False)
    references: NDArray[np.float16] = field(repr=False)
    network: str = ""

    @property
    def temperature(self) -> float:
        """What logits are divided by."""
        return self.fit.temperature

    @property
    def ece_before(self) -> float:
        """Expected calibration error on val without the temperature, in [0, 1]."""
        return self.fit.ece_before

    @property
    def ece_after(self) -> float:
        """The same with it, cross-fitted."""
        return self.fit.ece_after

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.targets.ndim == 2

    def probabilities(self, logits: Floats) -> NDArray[np.float32]:
        """Return the calibrated probabilities of all classes, of logits (N, C). Shape: (N, C)"""
        return self._probabilities(logits).astype(np.float32)

    def threshold(self, probability: float) -> float:
        """Return the calibrated probability of a label whose probability without the temperature is this one."""
        with np.errstate(divide="ignore"):
            logit = np.log(probability) - np.log1p(-probability)
        return float(as_probabilities(np.array(logit / self.temperature), True))

    def distance(self, features: Floats) -> NDArray[np.float32]:
        """Return how unlike val's images are, of pooled features (N, F): the distance to a neighbour. Shape: (N,)"""
        return neighbour_distances(features, self.references, min(NEIGHBOUR, len(self.references)))

    def rank(self, logits: Floats, features: Floats) -> NDArray[np.float64]:
        """Return each image's rank among val's, in [0, 1], low for a doubtful or a strange one; see `rejection`."""
        return self._rank(self._probabilities(logits), self.distance(features))

    def acceptance(self, coverage: float | None = None, max_error: float | None = None) -> Acceptance:
        """Return from which rank on images are answered, so that this share is, or that errors stay below that rate.

        Args:
            coverage: share of images like val's that are answered, in (0, 1).
            max_error: share of wrong answers among them that is exceeded with a probability of 5%; see `accept_error`.

        Raises:
            BadValue: not exactly one is given, val has too few images for it, or images may have several labels, of
                which no error rate is defined.
        """
        if (coverage is None) == (max_error is None):
            raise BadValue("`coverage` or `max_error`: give one of them")
        if coverage is not None:
            return accept_share(self._further_ranks, None if self.multilabel else self._wrong, coverage)
        assert max_error is not None
        if self.multilabel:
            raise BadValue("`max_error`: an image may have several labels here, so no answer is simply wrong")
        return accept_error(self._val_ranks, self._wrong, max_error)

    def rejected(
        self, logits: Floats, features: Floats, coverage: float | None = None, max_error: float | None = None
    ) -> NDArray[np.bool_]:
        """Return which images get no answer, of logits (N, C) and pooled features (N, F). Shape: (N,)

        Raises:
            BadValue: see `acceptance`.
        """
        return self.rank(logits, features) < self.acceptance(coverage, max_error).threshold

    def sets(self, logits: Floats, coverage: float) -> list[list[int]]:
        """Return the classes that each image may be of, most probable first; see `conformal` for what is promised.

        Args:
            logits: (N, C).
            coverage: probability that an image's own class is among them, in (0, 1).

        Raises:
            BadValue: val has too few images for it, or images may have several labels.
        """
        self._check_sets(coverage)
        groups = class_groups(self.targets, self.logits.shape[1], coverage)
        probabilities = self._probabilities(logits)
        member = in_set(probabilities, limits(self._val_probabilities, self.targets, groups, coverage))
        order = np.argsort(-probabilities, axis=1, kind="stable")
        return [row[held[row]].tolist() for row, held in zip(order, member, strict=True)]

    def measure_sets(self, coverage: float) -> SetFacts | None:
        """Return how often sets hold the class, and how large they are, on val by cross-fitting; see `conformal`.

        Raises:
            BadValue: see `sets`.
        """
        self._check_sets(coverage)
        fold = folds(len(self.logits))
        held_out = self.logits / np.array(self.fit.by_fold)[fold, None]
        return measure_sets(as_probabilities(held_out, False), self.targets, fold, coverage)

    def risk_coverage(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return coverage and error on val for each number of answers, from the highest rank on. Shape: (N,), (N,)

        Raises:
            BadValue: images may have several labels.
        """
        if self.multilabel:
            raise BadValue("an image may have several labels here, so no answer is simply wrong")
        return risk_coverage(self._val_ranks, self._wrong)

    def _check_sets(self, coverage: float) -> None:
        if self.multilabel:
            raise BadValue("`sets`: an image may have several labels here, and a set would be of one of them")
        check_share("sets", coverage, len(self.logits))

    def _probabilities(self, logits: Floats) -> NDArray[np.float64]:
        return as_probabilities(np.asarray(logits, np.float64) / self.temperature, self.multilabel)

    def _rank(self, probabilities: Floats, distances: Floats, own: int = 0) -> NDArray[np.float64]:
        if self.multilabel:
            return ranks(-distances, -self.distances)
        near = ranks(-distances, -self.distances, own)
        return combined_ranks(ranks(probabilities.max(1), self._val_probabilities.max(1)), near)

    @cached_property
    def _val_probabilities(self) -> NDArray[np.float64]:
        return self._probabilities(self.logits)

    @cached_property
    def _val_ranks(self) -> NDArray[np.float64]:
        return self._rank(self._val_probabilities, self.distances)

    @cached_property
    def _further_ranks(self) -> NDArray[np.float64]:
        """Return the ranks of val for `accept_share`."""
        return self._rank(self._val_probabilities, self.distances, own=1)

    @cached_property
    def _wrong(self) -> NDArray[np.bool_]:
        return self.logits.argmax(1) != self.targets


def fit_calibration(logits: Floats, targets: NDArray[Any], features: Floats, network: str = "") -> Calibration:
    """Return what images say about the answers of a network that was not trained on them.

    Of very many images, some are drawn; see `most_images` and `most_references`.

    Args:
        logits: (N, C).
        targets: class indices (N,); with several labels per image, multi-hot (N, C).
        features: pooled features, what the head sees, of any length. Shape: (N, F)
        network: digest of the head.

    Raises:
        BadValue: fewer than two images.
        DamagedFile: a number is not finite.
    """
    if len(logits) < 2:
        raise BadValue(f"{len(logits)} val images: at least 2 are needed to calibrate")
    chosen = drawn_images(len(logits), logits.shape[1])
    logits, features = np.asarray(logits, np.float32)[chosen], np.asarray(features, np.float32)[chosen]
    targets = np.asarray(targets)[chosen].astype(bool if np.ndim(targets) == 2 else np.int64)
    if not (np.isfinite(logits).all() and np.isfinite(features).all()):
        raise DamagedFile("the network's outputs on val are not finite numbers")
    of_references = _drawn(len(logits), most_references(features.shape[1]))
    references = on_sphere(features[of_references]).astype(np.float16)
    own = np.full(len(logits), -1)
    own[of_references] = np.arange(len(of_references))
    distances = neighbour_distances(features, references, min(NEIGHBOUR, len(references) - 1), own)
    return Calibration(fit_temperature(logits, targets), logits, targets, distances, references, network)


def drawn_images(count: int, num_classes: int) -> NDArray[np.int64]:
    """Return which of so many images a calibration consists of, in order. Shape: (N,)"""
    return _drawn(count, most_images(num_classes))


def most_images(num_classes: int) -> int:
    """Return of how many images a calibration consists at most: 2^22 / C, at least 2,000, at most 2^25 / C."""
    return max(2, min(max(MOST_REFERENCES, _MANY_LOGITS // num_classes), _MOST_NUMBERS // num_classes))


def most_references(num_features: int) -> int:
    """Return how many of them are references at most: 2,000, of more than 16,777 features fewer."""
    return max(2, min(MOST_REFERENCES, _MOST_NUMBERS // num_features))


def _drawn(count: int, most: int) -> NDArray[np.int64]:
    """Return up to so many places of a range in order, drawn at random: classes may take turns at any step."""
    places = np.arange(count) if count <= most else np.random.default_rng(0).permutation(count)[:most]
    return np.sort(places)
