"""Logit adjustment of linear heads, by which every class counts the same, however many images it has.

It subtracts the logarithm of each class's share of the images that a head was fitted to from the head's logits (Menon
et al. 2021, arXiv 2007.07314, section 4.1). By Bayes' rule those of p(class | image) become those of p(image | class):
of the same image when all classes are equally frequent. The fit, its penalty and its temperature stay those of the
data as they are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from transfer.statistics import Metric
from transfer.training.losses import log_class_shares


def is_adjusted(asked: bool | Literal["auto"], metric: Metric) -> bool:
    """Return whether heads are adjusted: as asked, or under `auto` where the mean per class counts.

    On clothing photos adjustment raises the mean per class by 4.6 points with 100 images, by 2.7 with 300 and by 1.6
    with 2,000, where top-1 loses 0.7; with fewer it stays (benchmarks/logit_adjustment_clothing_cpu.json).
    """
    return metric == "mean_per_class" if asked == "auto" else asked


def log_shares(labels: Tensor, num_classes: int) -> Tensor:
    """Return the logarithm of each class's share of images, float64 (C,); see `log_class_shares`.

    Args:
        labels: class indices, int64. Shape: (N,)
        num_classes: C, also of classes without an image.
    """
    return log_class_shares(torch.bincount(labels, minlength=num_classes))
