"""An image size and a batch size for a dataset, from its images, the network and the memory of this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from transfer.config.schema import DataConfig
from transfer.costs.memory import largest_batch, training_memory, usable_memory
from transfer.networks.function import FunctionVariant
from transfer.networks.rows import Variant
from transfer.weights.build import build_classifier

_MIN_IMAGE_SIZE = 224  # smaller inputs lose: the networks halve the picture five times


def recommend_sizes(
    variant: Variant | FunctionVariant,
    *,
    short_sides: Sequence[int],
    num_classes: int,
    num_train_images: int,
    own_size: int | None,
) -> dict[str, Any]:
    """Recommend an image size and a batch size for fine-tuning.

    The image size is the median short side in steps of 32 pixels, at least 224 and at most the network's own
    resolution. The batch size is finetune's default, or less where that does not fit into memory or where an epoch
    would have fewer than 8 steps; learning rates are tuned for the default, so more room is no reason for more.

    Args:
        variant: the network.
        short_sides: the short side of each image, in pixels; at least one.
        num_classes: classes of the dataset.
        num_train_images: images of its training split.
        own_size: the size that the dataset prescribes, in pixels; None: none.

    Returns:
        `image_size`, `batch_size` and what they follow from, in pixels, images and bytes.
    """
    short = float(statistics.median(short_sides))
    size = own_size or min(variant.resolution, max(_MIN_IMAGE_SIZE, int(short) // 32 * 32))
    memory, of = usable_memory()
    with torch.device("meta"):
        classifier = build_classifier(variant.name, max(num_classes, 1))
    needed = training_memory(classifier, size, precision="bf16-mixed" if of == "gpu" else "32-true")
    fits = largest_batch(memory, needed)
    default = DataConfig().batch_size
    most = min(default, max(8, num_train_images // 8), default if fits is None else max(fits, 1))
    return {
        "backbone": variant.name,
        "image_size": size,
        "median_short_side": short,
        "batch_size": 1 << (most.bit_length() - 1),
        "largest_batch_that_fits": fits,
        "training_bytes_per_image": needed.per_image,
        "memory_bytes": memory,
        "memory_of": of,
        "is_an_estimate": True,
    }
