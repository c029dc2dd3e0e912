"""Losses and class weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.errors import BadValue, UserError, unknown_name

LOSSES = ("cross_entropy", "bce")


def balanced_class_weights(class_counts: Sequence[int]) -> Tensor:
    """Weight num_examples / (num_classes * count) of each class, so that every class has the same say; mean count: 1.

    Raises:
        UserError: a class without examples.
    """
    empty = [index for index, count in enumerate(class_counts) if count < 1]
    if empty:
        raise UserError(f"`class_weights`=balanced: classes {empty} have no training image")
    counts = torch.tensor(class_counts, dtype=torch.float64)
    return (counts.sum() / (len(class_counts) * counts)).float()


class BinaryCrossEntropy(nn.Module):
    """One yes-or-no question per class, averaged over classes and batch.

    Args:
        label_smoothing: moves targets from 0 and 1 towards one half by this share.
        pos_weight: per class, of the positive targets' part of the loss.
    """

    pos_weight: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, pos_weight: Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("pos_weight", pos_weight, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (N, C); targets multi-hot (N, C), or class indices (N,)."""
        hot = F.one_hot(targets, logits.shape[1]) if targets.ndim == 1 else targets
        smoothed = hot.to(logits.dtype) * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        return F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=self.pos_weight)


class CrossEntropy(nn.CrossEntropyLoss):
    """Softmax cross-entropy of class indices (N,), averaged over the batch; class weights stay out of checkpoints."""

    def __init__(self, label_smoothing: float = 0.0, weight: Tensor | None = None) -> None:
        super().__init__(label_smoothing=label_smoothing)
        self.register_buffer("weight", weight, persistent=False)


def build_loss(name: str, label_smoothing: float = 0.0, class_weights: Tensor | None = None) -> nn.Module:
    """A loss (logits (N, C), targets) -> scalar.

    Args:
        name: `cross_entropy`, or `bce` for several labels per image.
        label_smoothing: in [0, 1).
        class_weights: (C,); for `bce` the weight of each class's positive targets.

    Raises:
        UserError: unknown name, or smoothing out of range.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise BadValue(f"`label_smoothing`={label_smoothing}: allowed is 0 <= label_smoothing < 1")
    if name == "cross_entropy":
        return CrossEntropy(label_smoothing, class_weights)
    if name == "bce":
        return BinaryCrossEntropy(label_smoothing, class_weights)
    raise unknown_name("loss", name, LOSSES)
