"""Augmentations that mix the images of a batch, on the device."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Mix(NamedTuple):
    """How a batch is mixed. Its shapes do not depend on what was drawn, so one compiled step computes every mix.

    The loss of the mixed images is share * loss(target) + (1 - share) * loss(target[partner]).

    Attributes:
        partner: index of each image's partner, (N,).
        share: share of the image itself, in [0, 1], ().
        rows, columns: which rows (H,) and columns (W,) of the image are the partner's; None blends all pixels.
    """

    partner: Tensor
    share: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None

    def blend(self, images: Tensor) -> Tensor:
        """Return the mixed images, (N, C, H, W)."""
        partners = images[self.partner]
        if self.rows is None or self.columns is None:
            return images.lerp(partners, (1.0 - self.share).to(images.dtype))
        return torch.where(self.rows[:, None] & self.columns, partners, images)


def draw_mix(images: Tensor, mixup_alpha: float, cutmix_alpha: float) -> Mix | None:
    """Draw how to mix every image with another one: mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019).

    If both alphas are above zero, one of the two methods is drawn with equal odds.

    Args:
        images: (N, C, H, W).
        mixup_alpha, cutmix_alpha: the share is drawn from Beta(alpha, alpha); 0 turns the method off.

    Returns:
        The mix, on the device of the images; None if both are off.
    """
    use_cutmix = cutmix_alpha > 0 and (mixup_alpha == 0 or torch.rand(()).item() < 0.5)
    alpha = cutmix_alpha if use_cutmix else mixup_alpha
    if alpha == 0:
        return None
    partner = torch.randperm(len(images)).to(images.device, non_blocking=True)
    share = torch.distributions.Beta(*torch.tensor([alpha, alpha], dtype=torch.float32)).sample()
    if not use_cutmix:
        return Mix(partner, share.to(images.device, non_blocking=True))
    rows, columns = _box(images.shape[-2], images.shape[-1], 1.0 - share.item())
    own = torch.tensor(1.0 - int(rows.sum() * columns.sum()) / (images.shape[-2] * images.shape[-1]))
    return Mix(partner, *(part.to(images.device, non_blocking=True) for part in (own, rows, columns)))


def _box(height: int, width: int, area: float) -> tuple[Tensor, Tensor]:
    """Return which rows and columns lie in a box around a random centre, with `area` as its share of the image.

    The box is clipped to the image.
    """
    box_height, box_width = round(height * math.sqrt(area)), round(width * math.sqrt(area))
    top, left = int(torch.randint(height, ())) - box_height // 2, int(torch.randint(width, ())) - box_width // 2
    rows, columns = torch.arange(height), torch.arange(width)
    return (rows >= top) & (rows < top + box_height), (columns >= left) & (columns < left + box_width)
