"""Several classifiers as one network, which averages their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softplus

from transfer.networks.classifier import Classifier


class Ensemble(nn.Module):
    """Classifiers of the same classes and images, whose calibrated probabilities are averaged with equal weights.

    Its logits are those of the mean (Lakshminarayanan et al. 2017, arXiv 1612.01474): its logarithm, or with several
    labels per image its logit, so that softmax and sigmoid give the mean again. One classifier alone keeps its own.

    Args:
        members: the classifiers.
        temperatures: what each one's logits are divided by before they become probabilities; of one alone unused.
        multilabel: whether an image may have several labels.
    """

    def __init__(self, members: Sequence[Classifier], temperatures: Sequence[float], multilabel: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.temperatures, self.multilabel = tuple(temperatures), multilabel

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, K)."""
        return self.forward_with_features(images)[0]

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, K) and the pooled features of all members side by side, (N, F)."""
        found = [member.forward_with_features(images) for member in self.members]  # type: ignore[operator]  # Classifiers
        if len(found) == 1:
            return found[0]
        logits = [one / by for (one, _), by in zip(found, self.temperatures, strict=True)]
        return _logits_of_mean(logits, self.multilabel), torch.cat([features for _, features in found], 1)


def _logits_of_mean(logits: Sequence[Tensor], multilabel: bool) -> Tensor:
    """M of (N, K) -> (N, K)"""
    every = torch.stack(list(logits))
    if multilabel:  # of sigmoid(z), the logarithm is -softplus(-z), and of 1 - sigmoid(z) it is -softplus(z)
        return (-softplus(-every)).logsumexp(0) - (-softplus(every)).logsumexp(0)
    return log_softmax(every, 2).logsumexp(0) - math.log(len(logits))
