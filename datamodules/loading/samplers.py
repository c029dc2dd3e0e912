"""The order of the images: which of them a rank sees in an epoch, and with which seed each is augmented."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, DistributedSampler

from transfer.progressive import Stages

Item = TypeVar("Item", covariant=True)

# Streams that are read side by side; a batch comes from one of them, see `datamodules.reading.streaming`.
LANES = 8


def distributed_position() -> tuple[int, int]:
    """Return this process's rank and the number of ranks: those of the default process group, or else 0 and 1."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class RankSampler(DistributedSampler[Item], ABC):
    """Base of the samplers that an `ImageLoader` divides among the ranks when an iteration starts.

    Iterated by anyone else, it yields the items of all ranks: a library that replaces the loader, as accelerate's
    `prepare` does, divides them itself. It is a DistributedSampler so that Lightning and Fabric leave it in place and
    call `set_epoch`.

    Args:
        num_images: number of images to order.
        seed: seed of the order.
    """

    def __init__(self, num_images: int, seed: int = 0) -> None:
        super().__init__(cast("Dataset[Item]", range(num_images)), num_replicas=1, rank=0, seed=seed)
        self.num_images = num_images
        self._part: tuple[int, int, int] | None = None

    @abstractmethod
    def items(self, rank: int = 0, world_size: int = 1) -> Sequence[Item]:
        """Return what a rank sees in the current epoch, in order."""

    @abstractmethod
    def count(self, rank: int = 0, world_size: int = 1) -> int:
        """Return the length of `items`."""

    def divide(self, rank: int, world_size: int, start: int = 0) -> None:
        """Restrict the next iteration, and no other, to the items of one rank.

        Args:
            rank: the rank, in 0..world_size - 1.
            world_size: number of ranks.
            start: number of the rank's items to leave out at the beginning.
        """
        self._part = rank, world_size, start

    def __iter__(self) -> Iterator[Item]:
        (rank, world_size, start), self._part = self._part or (0, 1, 0), None
        return iter(self.items(rank, world_size)[start:])

    def __len__(self) -> int:
        return self.count()


class EpochSampler(RankSampler[tuple[int, ...]]):
    """Yields (index, seed of its augmentation), shuffled anew each epoch; both depend on (seed, epoch, index) only.

    Every rank gets the same number of images. The remainder of the division is left out: other images each epoch.

    Attributes:
        stages: the plan of a progressive run; its items are (index, seed, stage). None: there are no stages.
    """

    stages: Stages | None = None

    def items(self, rank: int = 0, world_size: int = 1) -> list[tuple[int, ...]]:
        """Return a rank's items in the current epoch, in order."""
        rng = np.random.default_rng([self.seed, self.epoch])
        mine = self._order(rng, rank, world_size)
        seeds = rng.integers(2**62, size=self.num_images)
        items: list[tuple[int, ...]] = [(int(index), int(seeds[index])) for index in mine]
        if self.stages is None:
            return items
        return [(*item, self.stages.of_image(self.epoch, position)) for position, item in enumerate(items)]

    def count(self, rank: int = 0, world_size: int = 1) -> int:
        """Return the number of images that each rank sees in an epoch."""
        return self.num_images // world_size

    def _order(self, rng: np.random.Generator, rank: int, world_size: int) -> NDArray[np.int64]:
        return rng.permutation(self.num_images)[rank : self.count(rank, world_size) * world_size : world_size]


class EvalSampler(RankSampler[int]):
    """Yields every image exactly once over all ranks, in order; ranks may differ in length by one.

    PyTorch's own DistributedSampler pads the shorter ranks with repeats, so that an accuracy depends on the number of
    GPUs.
    """

    def items(self, rank: int = 0, world_size: int = 1) -> Sequence[int]:
        """Return the indices that a rank evaluates, in order."""
        return range(rank, self.num_images, world_size)

    def count(self, rank: int = 0, world_size: int = 1) -> int:
        """Return the number of images that a rank evaluates."""
        return len(self.items(rank, world_size))

    def with_seeds(self, seed: int, view: int) -> ViewSampler:
        """Return a sampler in the same order that augments the images; see `ViewSampler`."""
        return ViewSampler(self, seed, view)


class StreamSampler(EpochSampler):
    """An EpochSampler in which every rank and lane asks for neighbouring rows; see `datamodules.reading.streaming`.

    The order depends on batch size and window too.

    Args:
        groups: number of the row group of each image. Shape: (N,)
        window: number of groups within which a lane shuffles.
        batch_size: the loader's.
        seed: seed of the order.
    """

    def __init__(self, groups: NDArray[np.int64], window: int, batch_size: int, seed: int) -> None:
        super().__init__(len(groups), seed)
        self.groups = groups
        self.window = window
        self.batch_size = batch_size

    def _order(self, rng: np.random.Generator, rank: int, world_size: int) -> NDArray[np.int64]:
        turn = rng.permutation(int(self.groups.max(initial=0)) + 1)
        order = np.lexsort((rng.random(self.num_images), turn[self.groups]))
        size = self.count(rank, world_size)
        lanes, rest = deal_out(order[rank * size : (rank + 1) * size], self.batch_size)
        for lane in lanes:
            first_of_group = np.flatnonzero(np.diff(self.groups[lane], prepend=-1))
            for window in np.split(lane, first_of_group[:: self.window]):  # views, the first one empty
                rng.shuffle(window)
        return interleave(lanes, rest, self.batch_size)


class StreamEvalSampler(EvalSampler):
    """An EvalSampler in which each rank and lane has neighbouring rows.

    Args:
        num_images: number of images in all.
        batch_size: the loader's.
    """

    def __init__(self, num_images: int, batch_size: int) -> None:
        super().__init__(num_images)
        self.batch_size = batch_size

    def items(self, rank: int = 0, world_size: int = 1) -> list[int]:
        """Return the indices that a rank evaluates, batch by batch from lane after lane."""
        mine = np.array_split(np.arange(self.num_images), world_size)[rank]
        indices: list[int] = interleave(*deal_out(mine, self.batch_size), self.batch_size).tolist()
        return indices

    def count(self, rank: int = 0, world_size: int = 1) -> int:
        """Return the number of images that a rank evaluates."""
        return self.num_images // world_size + (rank < self.num_images % world_size)


class ViewSampler(RankSampler[tuple[int, int]]):
    """Yields (index, seed of its augmentation) in the order of an EvalSampler: every image exactly once over all ranks.

    Args:
        order: the order of the images.
        seed: with `view` and the index, all that a seed depends on.
        view: number of the augmented view of the images.
    """

    def __init__(self, order: EvalSampler, seed: int, view: int) -> None:
        super().__init__(order.num_images, seed)
        self.order = order
        self.view = view

    def items(self, rank: int = 0, world_size: int = 1) -> list[tuple[int, int]]:
        """Return a rank's (index, seed) pairs, in order."""
        seeds = np.random.default_rng([self.seed, self.view]).integers(2**62, size=self.num_images)
        return [(index, int(seeds[index])) for index in self.order.items(rank, world_size)]

    def count(self, rank: int = 0, world_size: int = 1) -> int:
        """Return the number of images that a rank sees."""
        return self.order.count(rank, world_size)


def deal_out(order: NDArray[np.int64], batch_size: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return neighbouring whole batches for each lane, and what is left for no whole batch."""
    num_batches = len(order) // batch_size
    bounds = np.cumsum([batch_size * math.ceil((num_batches - lane) / LANES) for lane in range(LANES)])
    *lanes, rest = np.split(order.copy(), bounds)
    return lanes, rest


def interleave(lanes: Sequence[NDArray[np.int64]], rest: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    """Return the lanes' batches in turn, followed by the rest."""
    batches = [lane.reshape(-1, batch_size) for lane in lanes]
    turns = [batches[number % LANES][number // LANES] for number in range(sum(map(len, batches)))]
    return np.concatenate([*turns, rest]).astype(np.int64)
