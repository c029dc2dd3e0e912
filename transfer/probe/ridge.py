"""Ridge regression on one-hot labels, along a path of penalties from one decomposition, with exact leave-one-out.

Minimised is what scikit-learn's RidgeClassifier minimises with alpha = penalty, for targets of 0 and 1 in place of -1
and 1, which changes no prediction:

    sum over the images of |W x + b - one_hot(label)|^2  +  penalty * |W|^2

with b unpenalised. Predictions of an image by the fit to the others follow from the fit to all: its residual is
e / (1 - h) with h its own entry of the hat matrix (Allen 1974); those of a block of images that are left out together
solve (I - H) r = e with H their block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from transfer.probe.logistic import LinearFit, symmetric_eigen


class RidgeRegression:
    """One data set, decomposed to be fitted with many penalties, in float64.

    Args:
        features: of any floating type, on any device; all is computed there. Shape: (N, F)
        labels: class indices, int64. Shape: (N,)
        num_classes: also of classes without an image.
        views: rows of each image; its error is the mean over them.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, views: int = 1) -> None:
        self.views = views
        self.mean = features.double().mean(0)
        self.targets = F.one_hot(labels, num_classes).double()
        self.frequency = self.targets.mean(0)
        centred = features.double() - self.mean
        variances, self.axes = symmetric_eigen(centred.T @ centred)
        self.variances = variances.clamp(min=0)
        self.turned = centred @ self.axes
        self.correlation = self.turned.T @ self.targets

    def path(self, penalties: Iterable[float]) -> Iterator[LinearFit]:
        """Yield the optimum for each penalty, above 0; its logits are scores, about 1 for the label and 0 elsewhere."""
        for penalty in penalties:
            weight = (self.axes @ (self.correlation / self._curvature(penalty)[:, None])).T
            squares = float(self._residuals(penalty).square().sum()) / self.views
            loss = squares + penalty * float(weight.square().sum())
            yield LinearFit(penalty, weight, self.frequency - weight @ self.mean, loss, passes=1)

    def left_out(self, penalties: Iterable[float], blocks: Tensor | None = None) -> Iterator[Tensor]:
        """Yield for each penalty the scores (N, C) of each row by the fit to the rows of all other blocks.

        Args:
            penalties: above 0.
            blocks: the block of each row, such as its image, group or fold; None leaves one row out. Shape: (N,)
        """
        for penalty in penalties:
            residuals, half = self._residuals(penalty), self.turned / self._curvature(penalty).sqrt()
            if blocks is None:
                residuals = residuals / (1 - 1 / len(half) - half.square().sum(1, keepdim=True))
            else:
                residuals = _residuals_of_blocks(residuals, half, blocks)
            yield self.targets - residuals

    def _curvature(self, penalty: float) -> Tensor:
        """Return half the second derivatives along the axes. Shape: (F,)"""
        return self.variances + self.views * penalty

    def _residuals(self, penalty: float) -> Tensor:
        fitted = self.turned @ (self.correlation / self._curvature(penalty)[:, None])
        return self.targets - self.frequency - fitted


def _residuals_of_blocks(residuals: Tensor, half: Tensor, blocks: Tensor) -> Tensor:
    """Return residuals (N, C) without each block; the hat matrix is half (N, F) x half.T + 1 / N."""
    found = torch.empty_like(residuals)
    for block in torch.unique(blocks):
        mine = torch.nonzero(blocks == block).flatten()
        hat = half[mine] @ half[mine].T + 1 / len(half)
        identity = torch.eye(len(mine), dtype=hat.dtype, device=hat.device)
        found[mine] = torch.linalg.solve(identity - hat, residuals[mine])
    return found
