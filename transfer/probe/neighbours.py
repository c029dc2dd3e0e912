"""k-nearest-neighbour probe with DINO's settings: nothing is fitted.

Caron et al. 2021 (arXiv 2104.14294), section 4.1 and appendix F.1, after Wu et al. 2018 (arXiv 1805.01978): the 20
nearest references by cosine similarity vote for their class, each with weight exp(similarity / 0.07).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from transfer.probe.features import Features
from transfer.training.metrics import build_metrics

NUM_NEIGHBOURS, TEMPERATURE = 20, 0.07
MOST_PRODUCTS = 4 * 10**12  # multiply-adds of the similarities that a probe computes; Food-101's test takes 2.4e12
_ACCURACIES = ("top1", "top5", "mean_per_class")
_CHUNK = 1024  # images whose similarities are held at a time


def neighbour_votes(
    features: Tensor,
    references: Tensor,
    labels: Tensor,
    num_classes: int,
    k: int = NUM_NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Return the share of each class in the votes of an image's nearest references, float32. Shape: (N, C)

    Args:
        features: of the images. Shape: (N, F)
        references: features of labelled images; where they are fewer than `k`, all of them vote. Shape: (R, F)
        labels: class indices of the references, int64. Shape: (R,)
        num_classes: number of classes.
        k: number of neighbours that vote.
        temperature: of the weights, above 0.
    """
    references = F.normalize(references.float(), dim=1)
    parts = [F.normalize(part.float(), dim=1) @ references.T for part in torch.split(features, _CHUNK)]
    return torch.cat([_votes(part, labels, num_classes, k, temperature) for part in parts])


def neighbour_accuracies(
    images: Features, references: Sequence[Features], num_classes: int, device: torch.device | str = "cpu"
) -> dict[str, float] | None:
    """Return the accuracies of `neighbour_votes`, in [0, 1]: `top1`, `mean_per_class` and, of enough classes, `top5`.

    None where the similarities would take more than `MOST_PRODUCTS`.

    Args:
        images: features and labels of the images.
        references: features and labels of the images that vote, part by part.
        num_classes: number of classes.
        device: the device that computes.
    """
    voters, labels = (torch.cat([getattr(part, name) for part in references]) for name in ("features", "labels"))
    if len(images.features) * voters.numel() > MOST_PRODUCTS:
        return None
    votes = neighbour_votes(images.features.to(device), voters.to(device), labels.to(device), num_classes).cpu()
    metrics = build_metrics(num_classes, multilabel=False)
    return {name: float(value) for name, value in metrics(votes, images.labels.cpu()).items() if name in _ACCURACIES}


def left_out_votes(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    blocks: Tensor | None = None,
    k: int = NUM_NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Return the votes of `neighbour_votes` for each image by the images of all other blocks. Shape: (N, C)

    Args:
        features: of the images. Shape: (N, F)
        labels: their class indices, int64. Shape: (N,)
        num_classes: number of classes.
        blocks: the block of each image, such as its group or its fold; None leaves one image out. Shape: (N,)
        k: number of neighbours that vote.
        temperature: of the weights, above 0.
    """
    references = F.normalize(features.float(), dim=1)
    blocks = torch.arange(len(features), device=features.device) if blocks is None else blocks
    votes = []
    for part, own in zip(torch.split(references, _CHUNK), torch.split(blocks, _CHUNK), strict=True):
        similarities = (part @ references.T).masked_fill(own[:, None] == blocks, -torch.inf)
        votes.append(_votes(similarities, labels, num_classes, k, temperature))
    return torch.cat(votes)


def _votes(similarities: Tensor, labels: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
    nearest, positions = similarities.topk(min(k, similarities.shape[1]), dim=1)
    weights = (nearest / temperature).softmax(1)  # of a reference that is left out: 0
    return weights.new_zeros((len(weights), num_classes)).scatter_add(1, labels[positions], weights)
