"""What training itself says of an epoch: its mean loss, and the share of images that were right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class TrainScores:
    """Loss and accuracy of an epoch, over the batches of all ranks; a resumed run continues both to the last bit.

    The loss is the mean over the batches. An image is right if the network said its class in the very step that learned
    from it: augmented, with dropout and stochastic depth, by a network that changes from batch to batch.
    """

    def __init__(self) -> None:
        self.reset()

    def __len__(self) -> int:
        """Return the number of batches of this rank so far."""
        return len(self._restored_losses) + len(self._losses)

    def update(self, loss: Tensor, logits: Tensor | None = None, targets: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            loss: its mean loss, ().
            logits: (N, C); None for a batch whose images have no single class that could be right.
            targets: class indices (N,), with logits.
        """
        self._losses.append(loss.detach())
        if logits is not None and targets is not None:
            self._hits.append((logits.detach().argmax(1) == targets).sum())
            self._num_images += len(targets)

    def compute(self) -> dict[str, float]:
        """Return `train/loss`, whatever the order of the batches, and `train/top1`, in [0, 1], if an image has a class.

        Every rank has to call it.
        """
        state = self.state()
        losses = list(chain.from_iterable(state["train_loss"]))
        hits, images = (sum(counts) for counts in zip(*state["train_hits"], strict=True))
        scores = {"train/loss": math.fsum(losses) / len(losses)}
        return {**scores, "train/top1": hits / images} if images else scores

    def reset(self) -> None:
        """Begin another epoch."""
        self._restored_losses: list[float] = []
        self._restored_hits = [0, 0]  # and images
        self._losses: list[Tensor] = []  # on the device: reading one would wait for its step
        self._hits: list[Tensor] = []  # likewise
        self._num_images = 0

    def state(self) -> dict[str, list[list[Any]]]:
        """Return the losses of every rank, and its hits and images; every rank has to call it."""
        hits, images = self._restored_hits
        return {
            "train_loss": _of_all_ranks([*self._restored_losses, *_read(self._losses)]),
            "train_hits": _of_all_ranks([hits + sum(_read(self._hits)), images + self._num_images]),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, whose ranks may have been more or fewer than there are now."""
        self.reset()
        self._restored_losses = list(chain.from_iterable(_of_this_rank(state.get("train_loss", []))))
        counts = zip([0, 0], *_of_this_rank(state.get("train_hits", [])), strict=True)
        self._restored_hits = [sum(each) for each in counts]


def _read(numbers: Sequence[Tensor]) -> list[Any]:
    """Return numbers of the device, fetched at once."""
    return torch.stack(list(numbers)).tolist() if numbers else []


def _of_all_ranks(own: list[Any]) -> list[list[Any]]:
    """Return what each rank gives."""
    if not _is_distributed():
        return [own]
    ranks: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(ranks, own)
    return ranks


def _of_this_rank(state: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """Return this rank's part of what ranks gave, who may have been more or fewer than there are now."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if _is_distributed() else (0, 1)
    return state[rank::world_size]


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
