"""The temperatures that logits are divided by before their loss is compared, and that loss, with smoothed targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURES = tuple(10 ** (exponent / 8) for exponent in range(-32, 9))  # from 1e-4 to 10


def image_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each image at each temperature, in nats. Shape: (T, N)

    Args:
        logits: of the images. Shape: (N, C)
        labels: class indices, int64. Shape: (N,)
    """
    smoothing = 1 / (len(labels) + 2)
    return torch.stack(
        [
            F.cross_entropy(logits / temperature, labels, reduction="none", label_smoothing=smoothing)
            for temperature in TEMPERATURES
        ]
    )


def lowest_loss(logits: Tensor, labels: Tensor) -> float:
    """Return the mean of `image_losses` at the best temperature."""
    return float(image_losses(logits, labels).mean(1).min())
