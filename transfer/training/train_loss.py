"""The training loss of an epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from torch import distributed as dist


class TrainLoss:
    """Mean of the losses of an epoch, over the batches of all ranks; a resumed run continues it to the last bit."""

    def __init__(self) -> None:
        self._restored: list[float] = []
        self._losses: list[Tensor] = []  # on the device: reading one would wait for its step

    def __len__(self) -> int:
        """Return the number of batches of this rank so far."""
        return len(self._restored) + len(self._losses)

    def update(self, loss: Tensor) -> None:
        """Add the loss of a batch."""
        self._losses.append(loss.detach())

    def compute(self) -> float:
        """Return the mean, whatever the order of the losses; every rank has to call it."""
        losses = list(chain.from_iterable(self.state()))
        return math.fsum(losses) / len(losses)

    def reset(self) -> None:
        """Begin another epoch."""
        self._restored, self._losses = [], []

    def state(self) -> list[list[float]]:
        """Return the losses of every rank; every rank has to call it."""
        own = [*self._restored, *(torch.stack(self._losses).tolist() if self._losses else [])]
        if not _is_distributed():
            return [own]
        ranks: list[list[float]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(ranks, own)
        return ranks

    def restore(self, state: Sequence[Sequence[float]]) -> None:
        """Go on from a state, whose ranks may have been more or fewer than there are now."""
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if _is_distributed() else (0, 1)
        self._restored, self._losses = list(chain.from_iterable(state[rank::world_size])), []


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
