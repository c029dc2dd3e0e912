"""How much memory a training step will take, before it is taken."""

from __future__ import annotations

import os
from functools import cache

import torch

from transfer.classifier import build_classifier

ACTIVATION_MARGIN = 1.3  # workspaces, the input, fragmentation


@cache
def training_bytes(backbone: str, num_classes: int, image_size: int) -> tuple[int, int]:
    """Bytes that autograd keeps for each image in float32, and those of weights, gradients and momentum.

    Counted on the meta device, where tensors have shapes and no memory. For b4 at 380 px and a batch of 4 it gives
    2.83 GB; benchmarks/memory_b4_cpu.json measured 2.71 and 2.83 GB.
    """
    images = 2
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.device("meta"):
        classifier = build_classifier(backbone, max(num_classes, 1), load_weights=False).train()
        batch = torch.empty(images, 3, image_size, image_size)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            classifier(batch)
    parameters = {parameter.untyped_storage()._cdata for parameter in classifier.parameters()}
    activations = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in parameters)
    return activations // images, sum(12 * parameter.numel() for parameter in classifier.parameters())


def usable_memory() -> tuple[int | None, str | None]:
    """Bytes that training may take: 90% of the GPU's memory, else half of the machine's; None if unknown."""
    if torch.cuda.is_available():
        return int(0.9 * torch.cuda.get_device_properties(0).total_memory), "gpu"
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, "ram"
    except (AttributeError, ValueError, OSError):
        return None, None


def largest_batch(memory: int | None, per_image: int, fixed: int) -> int | None:
    """Images of a training step that fit in so many bytes, at least 0; None if these are unknown."""
    return max(int((memory - fixed) / (ACTIVATION_MARGIN * per_image)), 0) if memory else None
