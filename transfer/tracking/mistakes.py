"""What a run got wrong on test or val: which classes it takes for which, and the images it is most wrong about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from transfer.runs.test_record import SavedPredictions

MOST_MISTAKES = 32
MOST_CONFUSIONS = 10_000  # rows that a W&B table shows


class Confusion(NamedTuple):
    """How many images of a class the network takes for a class, perhaps the same."""

    actual: str
    predicted: str
    images: int


@dataclass(frozen=True)
class Mistake:
    """An image that the network is wrong about.

    Attributes:
        image: where it is.
        label, prediction: what it shows and what the network says; several labels are joined by `|`.
        probability: of the prediction; of several labels, the least probable one that was given, 0 without one.
        label_probability: of the label; of several, the least probable one, 1 without one.
        picture: a small copy; None where it is not to be shown or cannot be read any more.
    """

    image: str
    label: str
    prediction: str
    probability: float
    label_probability: float
    picture: Image | None


def count_confusions(found: SavedPredictions) -> list[Confusion]:
    """Return how often each class is taken for each, if it is at all, the most frequent first.

    With several labels per image there is no such pair, and the list is empty.
    """
    if found.multilabel:
        return []
    names = found.class_names
    pairs = Counter(zip(found.labels.tolist(), found.predictions.tolist(), strict=True))
    return [Confusion(names[a], names[p], count) for (a, p), count in pairs.most_common(MOST_CONFUSIONS)]


def find_mistakes(found: SavedPredictions, picture: Callable[[int], Image | None]) -> list[Mistake]:
    """Return the images whose label the network finds least probable among those it is wrong about, the worst first.

    Args:
        found: what it said of a split.
        picture: returns a small copy of an image, by its place in what was said.
    """
    if found.probabilities is None:
        return []
    wrong = found.labels != found.predictions
    places = np.flatnonzero(wrong.any(axis=1) if found.multilabel else wrong)
    surprise = _surprise(found.labels, found.probabilities)
    worst = places[np.argsort(-surprise[places], kind="stable")][:MOST_MISTAKES]
    return [_mistake(found, found.probabilities[place], int(place), picture(int(place))) for place in worst]


def _surprise(labels: NDArray[Any], probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the negative log-likelihood of each image's labels. Shape: (N,)"""
    clipped = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    if labels.ndim == 1:
        return -np.log(clipped[np.arange(len(labels)), labels])
    return -np.log(np.where(labels, clipped, 1 - clipped)).sum(axis=1)


def _mistake(found: SavedPredictions, probabilities: NDArray[np.float32], place: int, picture: Image | None) -> Mistake:
    label, prediction = (_classes(each[place]) for each in (found.labels, found.predictions))
    return Mistake(
        image=found.paths[place] if found.paths else f"image {place}",
        label="|".join(found.class_names[k] for k in label),
        prediction="|".join(found.class_names[k] for k in prediction),
        probability=float(min(probabilities[prediction], default=0.0)),
        label_probability=float(min(probabilities[label], default=1.0)),
        picture=picture,
    )


def _classes(value: Any) -> list[int]:
    """Return the classes that a label means: the one, or those of a multi-hot row."""
    return np.flatnonzero(value).tolist() if isinstance(value, np.ndarray) else [int(value)]
