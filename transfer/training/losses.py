"""Losses and class weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.errors import BadValue, unknown_name


def balanced_class_weights(class_counts: Sequence[int]) -> Tensor:
    """Return a weight for each class, float32 (C,), so that every class has the same say in the loss.

    The weight is num_examples / (num_classes * count): 1 for a class of average size.

    Args:
        class_counts: training images of each class.

    Raises:
        UserError: a class without examples.
    """
    empty = [index for index, count in enumerate(class_counts) if count < 1]
    if empty:
        raise BadValue(f"`class_weights`=balanced: classes {empty} have no training image")
    counts = torch.tensor(class_counts, dtype=torch.float64)
    return (counts.sum() / (len(class_counts) * counts)).float()


class BinaryCrossEntropy(nn.Module):
    """One yes-or-no question per class, averaged over classes and batch.

    Args:
        label_smoothing: share by which targets move from 0 and 1 towards one half, in [0, 1).
        pos_weight: weight of each class's positive targets, (C,).
        reduction: `mean`, or `none` for the loss of each image.
    """

    pos_weight: Tensor | None

    def __init__(
        self, label_smoothing: float = 0.0, pos_weight: Tensor | None = None, *, reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.register_buffer("pos_weight", pos_weight, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits (N, C) for multi-hot targets (N, C) or class indices (N,): (), or (N,)."""
        hot = F.one_hot(targets, logits.shape[1]) if targets.ndim == 1 else targets
        smoothed = hot.to(logits.dtype) * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        losses = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none", pos_weight=self.pos_weight)
        return losses.mean() if self.reduction == "mean" else losses.mean(1)


class CrossEntropy(nn.CrossEntropyLoss):
    """Softmax cross-entropy for class indices (N,), averaged over the batch; class weights stay out of checkpoints."""

    def __init__(self, label_smoothing: float = 0.0, weight: Tensor | None = None, *, reduction: str = "mean") -> None:
        super().__init__(label_smoothing=label_smoothing, reduction=reduction)
        self.register_buffer("weight", weight, persistent=False)


LOSSES: dict[str, type[BinaryCrossEntropy] | type[CrossEntropy]] = {
    "cross_entropy": CrossEntropy,
    "bce": BinaryCrossEntropy,
}


def build_loss(
    name: str, label_smoothing: float = 0.0, class_weights: Tensor | None = None, reduction: str = "mean"
) -> nn.Module:
    """Return a loss (logits (N, C), targets) -> scalar.

    Args:
        name: `cross_entropy`, or `bce` for several labels per image.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: weight of each class, (C,); for `bce`, of its positive targets.
        reduction: `mean`, or `none` for the loss of each image, (N,).

    Raises:
        UserError: unknown loss, or `label_smoothing` out of range.
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    if not 0.0 <= label_smoothing < 1.0:
        raise BadValue(f"`label_smoothing`={label_smoothing}: allowed is 0 <= label_smoothing < 1")
    return LOSSES[name](label_smoothing, class_weights, reduction=reduction)
