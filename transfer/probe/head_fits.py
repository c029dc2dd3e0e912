"""Linear heads fitted to images, or to the images that are not in a fold, along a path of penalties."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transfer.probe.logistic import LinearFit, LogisticRegression
from transfer.probe.logit_adjustment import log_shares
from transfer.probe.ridge import RidgeRegression


@dataclass(frozen=True)
class LabelledFeatures:
    """What heads are fitted to.

    Attributes:
        features: of the images, for each view. Shape: (V, N, F)
        labels: class indices, int64. Shape: (N,)
        num_classes: also of classes without an image.
        num_features: F, before `spanned`.
        kept: the images that heads are fitted to; None: all. Shape: (N,)
    """

    features: Tensor
    labels: Tensor
    num_classes: int
    num_features: int
    kept: Tensor | None = None

    @classmethod
    def of(
        cls,
        features: Tensor,
        labels: Tensor,
        num_classes: int,
        device: torch.device | str,
        kept: Tensor | None = None,
    ) -> LabelledFeatures:
        """Return them on a device."""
        kept = None if kept is None else kept.to(device)
        return cls(features.to(device), labels.to(device), num_classes, features.shape[2], kept)

    def others(self, fold: Tensor) -> LabelledFeatures:
        """Return the images to fit to that are not in a fold, a mask (N,)."""
        images = self._without(fold)
        return replace(self, features=self.features[:, images], labels=self.labels[images], kept=None)

    def log_shares(self, fold: Tensor) -> Tensor:
        """Return the logarithm of each class's share of the images to fit to that are not in a fold. Shape: (C,)"""
        return log_shares(self.labels[self._without(fold)], self.num_classes)

    def _without(self, fold: Tensor) -> Tensor:
        return ~fold if self.kept is None else self.kept & ~fold

    def leading(self, width: int) -> LabelledFeatures:
        """Return the same images with the first features alone."""
        return replace(self, features=self.features[..., :width], num_features=width)

    def spanned(self) -> LabelledFeatures:
        """Return the same images along axes that span those to fit to, if these rows are fewer than features.

        No fit changes: a penalty keeps weights within the span.
        """
        rows = (self.features if self.kept is None else self.features[:, self.kept]).flatten(0, 1)
        if len(rows) >= rows.shape[1]:
            return self
        return replace(self, features=self.features.double() @ torch.linalg.qr(rows.double().T).Q)

    def logistic(self) -> LogisticRegression:
        """Return logistic regression on them."""
        return LogisticRegression(*self._rows())

    def ridge(self) -> RidgeRegression:
        """Return ridge regression on them."""
        return RidgeRegression(*self._rows())

    def _rows(self) -> tuple[Tensor, Tensor, int, int]:
        num_views = len(self.features)
        return self.features.flatten(0, 1), self.labels.repeat(num_views), self.num_classes, num_views


def _refitted(head: str, data: LabelledFeatures, fold_of: Tensor, penalties: Sequence[float]) -> Iterator[Tensor]:
    """Yield the logits (N, C) of each penalty: of each fold, by the fit to the others."""
    masks = [fold_of == fold for fold in range(int(fold_of.max()) + 1)]
    for fits in zip(*(HEADS[head](data.others(mask), penalties) for mask in masks), strict=True):
        logits = torch.empty((len(fold_of), data.num_classes), device=fold_of.device)
        for fit, mask in zip(fits, masks, strict=True):
            logits[mask] = fit.logits(data.features[0, mask]).float()
        yield logits


def out_of_fold_logits(
    head: str, data: LabelledFeatures, fold_of: Tensor, penalties: Sequence[float]
) -> Iterator[Tensor]:
    """Yield the logits (N, C) of each penalty: of each fold, by the fit to the others.

    Args:
        head: a name of `HEADS`.
        data: the images.
        fold_of: the fold of each. Shape: (N,)
        penalties: from strong to weak.
    """
    if head != "ridge" or data.kept is not None:
        yield from _refitted(head, data, fold_of, penalties)
        return
    for scores in data.ridge().left_out(penalties, fold_of.repeat(len(data.features))):
        yield scores[: len(fold_of)].float()


HEADS: dict[str, Callable[[LabelledFeatures, Sequence[float]], Iterator[LinearFit]]] = {
    "logistic": lambda data, penalties: data.logistic().path(penalties),
    "ridge": lambda data, penalties: data.ridge().path(penalties),
}
