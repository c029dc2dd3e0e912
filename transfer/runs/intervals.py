"""How far the metrics of a split can be trusted, from the number of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.records import Interval
from transfer.resampling import multilabel_intervals
from transfer.statistics import mean_per_class_interval, share_interval


def find_intervals(
    metrics: Mapping[str, float],
    class_counts: Sequence[int],
    num_images: int,
    predicted: tuple[NDArray[Any], NDArray[np.float32]] | None = None,
) -> dict[str, Interval]:
    """Return the 95% intervals of the metrics that are shares of images, or means of the images' precisions.

    They are for other images like these, and do not measure the spread between seeds.

    Args:
        metrics: each metric that was found.
        class_counts: images of each class in the split.
        num_images: images that were measured, at least 1, which may be fewer.
        predicted: labels, indices (N,) or multi-hot (N, C), and probabilities (N, C); without them, `map` and `f1` get
            no interval.
    """
    intervals = {
        name: share_interval(metrics[name], num_images) for name in ("top1", "top5", "exact_match") if name in metrics
    }
    if "mean_per_class" in metrics:
        measured = num_images / sum(class_counts)
        counts = [measured * count for count in class_counts]
        intervals["mean_per_class"] = mean_per_class_interval(metrics["mean_per_class"], counts)
    if predicted is not None and predicted[0].ndim == 2:
        intervals |= multilabel_intervals(predicted[0].astype(bool), predicted[1])
    return intervals
