"""Augmentations that mix the images of a batch, on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mix_batch(images: Tensor, mixup_alpha: float, cutmix_alpha: float) -> tuple[Tensor, Tensor, float]:
    """Mix every image with another one of its batch: mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019).

    If both alphas are above zero, one of the two methods is drawn with equal odds.

    Args:
        images: (N, C, H, W).
        mixup_alpha, cutmix_alpha: the share is drawn from Beta(alpha, alpha); 0 turns the method off.

    Returns:
        The mixed images (N, C, H, W), the index of each image's partner (N,), and the share of the image itself, in
        [0, 1]: the loss is share * loss(target) + (1 - share) * loss(target[partner]).
    """
    use_cutmix = cutmix_alpha > 0 and (mixup_alpha == 0 or torch.rand(()).item() < 0.5)
    alpha = cutmix_alpha if use_cutmix else mixup_alpha
    if alpha == 0:
        return images, torch.arange(len(images), device=images.device), 1.0
    partner = torch.randperm(len(images)).to(images.device, non_blocking=True)
    share = float(torch.distributions.Beta(*torch.tensor([alpha, alpha], dtype=torch.float32)).sample())
    if not use_cutmix:
        return images.lerp(images[partner], 1.0 - share), partner, share
    top, bottom, left, right = _box(images.shape[-2], images.shape[-1], 1.0 - share)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    area = (bottom - top) * (right - left)
    return mixed, partner, 1.0 - area / (images.shape[-2] * images.shape[-1])


def _box(height: int, width: int, area: float) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of a box around a random centre, with `area` as its share of the image.

    The box is clipped to the image.
    """
    box_height, box_width = round(height * math.sqrt(area)), round(width * math.sqrt(area))
    y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
    top, left = max(0, y - box_height // 2), max(0, x - box_width // 2)
    return (
        top,
        min(height, y - box_height // 2 + box_height),
        left,
        min(width, x - box_width // 2 + box_width),
    )
