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
    """Return the images with a doubtful label, worst first, by confident learning (Northcutt et al. 2021, 1911.00068).

    How many there are is counted without a threshold, as it bears networks that are never sure: images on which a class
    other than the label reaches its usual probability, the mean over the images that have its label, and exceeds the
    label's (the off-diagonal entries of the confident joint). Which they are is ranked by the normalised margin, the
    label's probability less the largest other one. On images with one label this is `find_label_issues` of the library
    cleanlab with `low_normalized_margin`, which found more changed labels with fewer false ones than the images that
    were counted (`python -m benchmarks label_noise`).

    Shape:
        probabilities: (N, C); is_label: (N, C), one or several True per row.
    """
    usual = (probabilities * is_label).sum(0) / np.maximum(is_label.sum(0), 1)
    usual[~is_label.any(0)] = np.inf  # nothing is known of a class without images
    others, labelled = np.where(is_label, -np.inf, probabilities), np.where(is_label, probabilities, np.inf)
    given, found = labelled.min(1), others.max(1)
    counted = np.where(others >= usual - 1e-6, others, -np.inf).max(1) > given  # equal ones may differ by rounding
    return [
        Suspect(int(i), int(labelled[i].argmin()), int(others[i].argmax()), float(given[i]), float(found[i]))
        for i in np.argsort(given - found, kind="stable")[: counted.sum()]
    ]
