"""What a network's answers on a split amount to: confusions, classes, and the photos that are worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.errors import DamagedFile
from transfer.records import Interval
from transfer.runs.test_record import SavedPredictions
from transfer.statistics import share_interval

MOST_PHOTOS = 12  # of the worst, and of the most unsure
MOST_PAIRS, PHOTOS_OF_PAIR = 6, 4  # confused classes that are shown with photos


@dataclass(frozen=True)
class Confusion:
    """Images of one class that are taken for another.

    Attributes:
        given, predicted: indices of the two classes.
        images: indices of these images, the most confident mistake first.
        share: how much of the given class they are, in [0, 1].
    """

    given: int
    predicted: int
    images: list[int]
    share: float


@dataclass(frozen=True)
class ClassRow:
    """How one class fares; shares are None where their denominator is 0.

    Attributes:
        name: the class.
        images: images that have it.
        recall: share of these that are answered with it.
        interval: 95% interval of the recall.
        precision: share of the answers with it that are right.
        f1: harmonic mean of both.
    """

    name: str
    images: int
    recall: float | None
    interval: Interval | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Answers:
    """A network's answers on one split.

    Args:
        split: `val` or `test`.
        saved: labels, answers and, perhaps, probabilities.
        threshold: probability from which on a label is given, where an image may have several.
    """

    split: str
    saved: SavedPredictions
    threshold: float = 0.5

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.saved.multilabel

    @property
    def num_images(self) -> int:
        """Images of the split that were answered."""
        return len(self.saved.labels)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; numbers where the file has none.

        Raises:
            DamagedFile: an index has no name.
        """
        labels, found = self.saved.labels, self.saved.predictions
        count = labels.shape[1] if self.multilabel else 1 + int(max(labels.max(), found.max()))
        names = self.saved.class_names or tuple(map(str, range(count)))
        if count > len(names) or (self.multilabel and count != len(names)):
            raise DamagedFile(f"predictions on {self.split}: {count} classes, but {len(names)} names")
        return names

    @cached_property
    def probabilities(self) -> NDArray[np.float32] | None:
        """Probabilities of all classes, (N, C); None where none were kept, or a network that diverged has none."""
        found = self.saved.probabilities
        fits = found is not None and found.shape == (self.num_images, len(self.class_names))
        return found if found is not None and fits and np.isfinite(found).all() else None

    @cached_property
    def confusions(self) -> list[Confusion]:
        """All pairs of classes that are confused, most images first; none where images may have several labels."""
        if self.multilabel:
            return []
        labels, answers = self.saved.labels, self.saved.predictions
        wrong = np.flatnonzero(labels != answers)
        wrong = wrong[np.argsort(-self._confidence[wrong], kind="stable")]
        totals = np.bincount(labels)
        pairs: dict[tuple[int, int], list[int]] = {}
        for index in wrong.tolist():
            pairs.setdefault((int(labels[index]), int(answers[index])), []).append(index)
        found = [
            Confusion(given, predicted, images, len(images) / int(totals[given]))
            for (given, predicted), images in pairs.items()
        ]
        return sorted(found, key=lambda pair: (-len(pair.images), -pair.share, pair.given, pair.predicted))

    def matrix(self) -> NDArray[np.int64]:
        """Return how many images of each class, in rows, were answered with each class. Shape: (C, C)"""
        size = len(self.class_names)
        pairs = self.saved.labels.astype(np.int64) * size + self.saved.predictions
        return np.bincount(pairs, minlength=size * size).reshape(size, size)

    @cached_property
    def class_rows(self) -> list[ClassRow]:
        """How each class fares, in class order."""
        labels, answers, size = self.saved.labels, self.saved.predictions, len(self.class_names)
        if self.multilabel:
            hits = (labels & answers).sum(0)
            given, answered = labels.sum(0), answers.sum(0)
        else:
            hits = np.bincount(labels[labels == answers], minlength=size)
            given, answered = (np.bincount(indices, minlength=size) for indices in (labels, answers))
        return [
            _class_row(name, *map(int, counts))
            for name, *counts in zip(self.class_names, given, answered, hits, strict=True)
        ]

    def worst(self, most: int = MOST_PHOTOS) -> list[int]:
        """Return the images whose answer is wrong, the most confident mistake first."""
        if self.probabilities is None:
            return []
        mistake = self._mistakes if self.multilabel else self.saved.labels != self.saved.predictions
        wrong = np.flatnonzero(mistake)
        return wrong[np.argsort(-self._confidence[wrong], kind="stable")][:most].tolist()

    def unsure(self, most: int = MOST_PHOTOS) -> list[int]:
        """Return the images whose answer hangs by least: the smallest lead of the first class, or of a threshold."""
        if self.probabilities is None or len(self.class_names) < 2:
            return []
        if self.multilabel:
            lead = np.abs(self.probabilities - self.threshold).min(1)
        else:
            top = np.partition(self.probabilities, -2, axis=1)[:, -2:]
            lead = top[:, 1] - top[:, 0]
        return np.argsort(lead, kind="stable")[:most].tolist()

    def photos(self) -> list[int]:
        """Return the images that the report shows, each once."""
        pairs = [image for pair in self.confusions[:MOST_PAIRS] for image in pair.images[:PHOTOS_OF_PAIR]]
        return list(dict.fromkeys([*self.worst(), *self.unsure(), *pairs]))

    def mistake(self, index: int) -> int:
        """Return the class about which a wrong answer is most wrong: the one answered, or the label most off."""
        if not self.multilabel:
            return int(self.saved.predictions[index])
        assert self.probabilities is not None
        off = np.abs(self.saved.labels[index] - self.probabilities[index])
        return int(np.where(self.saved.labels[index] != self.saved.predictions[index], off, -1).argmax())

    def doubt(self, index: int) -> int:
        """Return the class that an unsure answer is about: the first one, or the label nearest to the threshold."""
        if not self.multilabel:
            return int(self.saved.predictions[index])
        assert self.probabilities is not None
        return int(np.abs(self.probabilities[index] - self.threshold).argmin())

    def given_names(self, index: int) -> list[str]:
        """Return the names of an image's own classes."""
        labels = self.saved.labels
        indices: Sequence[int] = np.flatnonzero(labels[index]).tolist() if self.multilabel else [int(labels[index])]
        return [self.class_names[label] for label in indices]

    @cached_property
    def _mistakes(self) -> NDArray[np.bool_]:
        return np.asarray((self.saved.labels != self.saved.predictions).any(1))

    @cached_property
    def _confidence(self) -> NDArray[Any]:
        """How sure an image's answer is, or how far off its most wrong label. Shape: (N,)"""
        if self.probabilities is None:
            return np.zeros(self.num_images)
        if self.multilabel:
            off = np.abs(self.saved.labels - self.probabilities)
            return np.asarray(np.where(self.saved.labels != self.saved.predictions, off, 0.0).max(1))
        return self.probabilities[np.arange(self.num_images), self.saved.predictions]


def _class_row(name: str, images: int, answered: int, hits: int) -> ClassRow:
    return ClassRow(
        name,
        images,
        hits / images if images else None,
        share_interval(hits / images, images) if images else None,
        hits / answered if answered else None,
        2 * hits / (images + answered) if images + answered else None,
    )
