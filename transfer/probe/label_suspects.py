"""Images whose label is doubtful, by the probabilities of a network that was not fitted to it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Suspect(NamedTuple):
    """An image: its index, its least probable label, the most probable other class, and their probabilities."""

    image: int
    label: int
    suggested: int
    label_probability: float
    suggested_probability: float


def rank_suspects(probabilities: NDArray[np.float32], is_label: NDArray[np.bool_]) -> list[Suspect]:
    """Return the images with a doubtful label, worst first.

    A class's usual probability is the mean over the images that have its label. An image is doubtful if another class
    reaches its usual probability there and exceeds the label's: an off-diagonal entry of the confident joint (Northcutt
    et al. 2021, arXiv 1911.00068), which needs no threshold and bears networks that are never sure. Ranked by the
    difference of the two, the paper's normalised margin.

    Shape:
        probabilities: (N, C); is_label: (N, C), one or several True per row.
    """
    usual = (probabilities * is_label).sum(0) / np.maximum(is_label.sum(0), 1)
    usual[~is_label.any(0)] = np.inf  # nothing is known of a class without images
    others = np.where(is_label | (probabilities < usual), -np.inf, probabilities)
    labelled = np.where(is_label, probabilities, np.inf)
    other, doubted = others.argmax(1), labelled.argmin(1)
    rows = np.arange(len(probabilities))
    given, found = labelled[rows, doubted], others[rows, other]
    return [
        Suspect(int(i), int(doubted[i]), int(other[i]), float(given[i]), float(found[i]))
        for i in np.argsort(given - found, kind="stable")
        if found[i] > given[i]
    ]
