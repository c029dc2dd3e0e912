"""Losses, class weights and logit adjustment."""

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


def log_class_shares(class_counts: Sequence[int] | Tensor) -> Tensor:
    """Return the logarithm of each class's share of the training images, float64 (C,), for logit adjustment.

    A class without images has 0, a share of 1: it is adjusted towards no answer, as nothing is known of it.

    Args:
        class_counts: training images of each class, (C,).
    """
    counts = torch.as_tensor(class_counts).double()
    return torch.where(counts > 0, counts / counts.sum(), 1.0).log()


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
    """Softmax cross-entropy for class indices (N,), averaged over the batch.

    Class weights and logit adjustment stay out of checkpoints.

    Args:
        label_smoothing: share of the target spread over all classes, in [0, 1).
        weight: weight of each class, (C,).
        logit_adjustment: what is added to the logits, (C,).
        reduction: `mean`, or `none` for the loss of each image.
    """

    logit_adjustment: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        weight: Tensor | None = None,
        logit_adjustment: Tensor | None = None,
        *,
        reduction: str = "mean",
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, reduction=reduction)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("logit_adjustment", logit_adjustment, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits (N, C) for class indices (N,): (), or (N,)."""
        return super().forward(logits if self.logit_adjustment is None else logits + self.logit_adjustment, targets)


LOSSES: dict[str, type[BinaryCrossEntropy] | type[CrossEntropy]] = {
    "cross_entropy": CrossEntropy,
    "bce": BinaryCrossEntropy,
}


def build_loss(
    name: str,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    logit_adjustment: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> nn.Module:
    """Return a loss (logits (N, C), targets) -> scalar.

    With `log_class_shares` for a logit adjustment it is the logit-adjusted loss (Menon et al. 2021, arXiv 2007.07314,
    section 4.2): the logits that minimise it are those of the plain loss less the logarithm of each class's share, so
    that they say how likely each class is where all are equally frequent. Of a linear head with an unpenalised bias
    they differ in the bias alone, which is how a probe's head is adjusted after its fit.

    Args:
        name: `cross_entropy`, or `bce` for several labels per image.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: weight of each class, (C,); for `bce`, of its positive targets.
        logit_adjustment: what is added to the logits in the loss, (C,); not for `bce`.
        reduction: `mean`, or `none` for the loss of each image, (N,).

    Raises:
        UserError: unknown loss, `label_smoothing` out of range, or a logit adjustment with `bce` or class weights.
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    if not 0.0 <= label_smoothing < 1.0:
        raise BadValue(f"`label_smoothing`={label_smoothing}: allowed is 0 <= label_smoothing < 1")
    if logit_adjustment is None:
        return LOSSES[name](label_smoothing, class_weights, reduction=reduction)
    if name != "cross_entropy":
        raise BadValue(f"`logit_adjustment` with `loss`={name}: it adjusts the logits of a softmax (use cross_entropy)")
    if class_weights is not None:
        raise BadValue("`logit_adjustment` with `class_weights`: both correct for the classes' sizes; leave one out")
    return CrossEntropy(label_smoothing, None, logit_adjustment, reduction=reduction)
