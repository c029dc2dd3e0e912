"""An image size and a batch size for a dataset, from its images, the network and the memory of this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from transfer.config.auto import choose_batch_size, choose_size
from transfer.costs.memory import largest_batch, training_memory, usable_memory
from transfer.costs.speed import automatic_precision
from transfer.networks.function import FunctionVariant
from transfer.networks.rows import Variant
from transfer.weights.build import build_classifier


def recommend_sizes(
    variant: Variant | FunctionVariant,
    *,
    short_sides: Sequence[int],
    num_classes: int,
    own_size: int | None,
) -> dict[str, Any]:
    """Recommend an image size and a batch size for fine-tuning, by the rules of `--recipe auto`.

    Args:
        variant: the network.
        short_sides: the short side of each image, in pixels; at least one.
        num_classes: classes of the dataset.
        own_size: the size that the dataset prescribes, in pixels; None: none.

    Returns:
        `image_size`, `batch_size` and what they follow from, in pixels, images and bytes.
    """
    short = float(statistics.median(short_sides))
    size = own_size or choose_size(int(short), variant.resolution)[0].value
    memory, of = usable_memory()
    with torch.device("meta"):
        classifier = build_classifier(variant.name, max(num_classes, 1))
    needed = training_memory(classifier, size, precision=automatic_precision(of == "gpu", size))
    fits = largest_batch(memory, needed)
    return {
        "backbone": variant.name,
        "image_size": size,
        "median_short_side": short,
        "batch_size": choose_batch_size(fits),
        "largest_batch_that_fits": fits,
        "training_bytes_per_image": needed.per_image,
        "memory_bytes": memory,
        "memory_of": of,
        "is_an_estimate": True,
    }
