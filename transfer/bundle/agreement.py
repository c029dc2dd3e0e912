"""How close a format comes to the network that was trained, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from transfer.bundle.formats import Model
from transfer.images.decode import Pixels

BATCH_SIZES = (1, 32)
_SECONDS = 0.5  # for each batch size, after a first call


def relative_difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest difference of logits as a share of the largest logit; infinite where one is not finite."""
    difference = np.abs(found.astype(np.float64) - expected).max(initial=0.0)
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(difference) / scale if np.isfinite(found).all() else float("inf")


def same_classes(found: NDArray[np.float32], expected: NDArray[np.float32]) -> int:
    """Return the number of images with the same most probable class."""
    return int((found.argmax(1) == expected.argmax(1)).sum())


def collect_logits(models: Mapping[str, Model], batches: Sequence[Sequence[Pixels]]) -> dict[str, NDArray[np.float32]]:
    """Return the logits of each model for the same images, which are read once. Shapes: (N, K)"""
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in models}
    for images in batches:
        for name, model in models.items():
            parts[name].append(model(images).logits)
    return {name: np.concatenate(found) for name, found in parts.items()}


def milliseconds_per_image(model: Model, images: Sequence[Pixels]) -> dict[str, float]:
    """Return the time from a decoded image to its logits, by batch size; the median of the calls in half a second.

    Args:
        model: the opened format.
        images: decoded images, which are repeated to fill a batch.
    """
    found = {}
    for size in BATCH_SIZES:
        batch = [images[index % len(images)] for index in range(size)]
        model(batch)
        times: list[float] = []
        end = time.perf_counter() + _SECONDS
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            model(batch)
            times.append(time.perf_counter() - start)
        found[str(size)] = round(1000 * float(np.median(times)) / size, 3)
    return found
