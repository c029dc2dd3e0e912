"""How unlike the images of val an image is: the distance to its k-th nearest neighbour in the space of features.

Sun et al. 2022 (arXiv 2204.06507): features on the unit sphere, no assumption about their distribution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

_CHUNK = 1024  # images whose similarities are held at a time


def on_sphere(features: Floats) -> NDArray[np.float32]:
    """Return features (N, F) divided by their lengths."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def neighbour_distances(
    features: Floats, references: Floats, k: int, own: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Return each image's distance to its k-th nearest reference, in [0, 2]. Shape: (N,)

    Args:
        features: (N, F), of any length.
        references: (R, F), on the unit sphere; R at least k, with `own` at least k + 1.
        k: which neighbour.
        own: the reference that is the image itself and is left out, or -1. Shape: (N,)
    """
    references, found = np.asarray(references, np.float32), []
    for start in range(0, len(features), _CHUNK):
        similarity = on_sphere(features[start : start + _CHUNK]) @ references.T
        if own is not None:
            mine = own[start : start + _CHUNK]
            rows = np.flatnonzero(mine >= 0)
            similarity[rows, mine[rows]] = -np.inf
        kth = np.partition(similarity, -k, axis=1)[:, -k]
        found.append(np.sqrt(np.maximum(2 - 2 * kth, 0)))
    return np.concatenate(found) if found else np.zeros(0, np.float32)
