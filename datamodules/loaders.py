"""Batches: samplers that know the rank and the epoch, and a loader that resumes in the middle of an epoch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from datamodules.images.cache import ImageCache
from datamodules.images.decode import BadImage, BadImageError, LostImageError, Pixels, open_picture
from datamodules.images.transforms import apply_transform, seed_transform
from datamodules.split import Split
from transfer.errors import DamagedFile, MissingData

_MAX_DEFAULT_WORKERS = 8


class ImageDataset(Dataset[tuple[Pixels | BadImage, Tensor]]):
    """Decoded and transformed images of a split, with their labels.

    Item: (uint8 (S, S, 3) or the BadImage it turned out to be, label: int64 () or multi-hot float32 (C,)).
    An index may come with a seed, (index, seed), on which alone the augmentation then depends.

    Args:
        split: images and labels.
        transform: see `build_train_transform` and `build_eval_transform`.
        cache: the split's images, decoded and resized; None decodes each when it is asked for.
    """

    def __init__(self, split: Split, transform: A.Compose, cache: ImageCache | None = None) -> None:
        self.split = split
        self.transform = transform
        self.cache = cache

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Pixels | BadImage, Tensor]:
        index, seed = item if isinstance(item, tuple) else (item, None)
        label = self.split.labels[index]
        if seed is not None:
            seed_transform(self.transform, seed)
        try:
            picture = open_picture(self.split.encoded(index)) if self.cache is None else self.cache[index]
            return apply_transform(self.transform, picture), label
        except BadImageError as error:
            is_lost = isinstance(error, LostImageError)
            return BadImage(
                self.split.image_name(index) if not is_lost else self.split.name, str(error), is_lost
            ), label


def _distributed_position() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Yields (index, seed of its augmentation), shuffled anew each epoch; both depend on (seed, epoch, index) only.

    Every rank gets equally many; what does not divide by their number is left out, other images each epoch.
    It is a DistributedSampler so that Lightning leaves it in place and calls `set_epoch`.

    Args:
        num_images: to draw from.
        seed: of order and augmentation.
        rank, world_size: this process and their number; by default the running process group's, else 0 and 1.
    """

    def __init__(self, num_images: int, seed: int, rank: int | None = None, world_size: int | None = None) -> None:
        default_rank, default_world = _distributed_position()
        super().__init__(
            cast("Dataset[tuple[int, int]]", range(num_images)),
            num_replicas=default_world if world_size is None else world_size,
            rank=default_rank if rank is None else rank,
            seed=seed,
            drop_last=True,
        )
        self.num_images = num_images
        self.start = 0  # images of the coming epoch that this rank has already seen

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        mine = self._order(rng)
        seeds = rng.integers(2**62, size=self.num_images)
        return iter([(int(index), int(seeds[index])) for index in mine[self.start :]])

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """This rank's images in the order of the epoch."""
        return rng.permutation(self.num_images)[self.rank : self.total_size : self.num_replicas]


class UnpaddedDistributedSampler(DistributedSampler[int]):
    """Every image exactly once over all ranks, in order; ranks may differ in length by one.

    PyTorch's own pads the shorter ranks with repeats, which makes an accuracy depend on the number of GPUs.
    """

    def __init__(self, num_images: int, rank: int | None = None, world_size: int | None = None) -> None:
        default_rank, default_world = _distributed_position()
        super().__init__(
            cast("Dataset[int]", range(num_images)),
            num_replicas=default_world if world_size is None else world_size,
            rank=default_rank if rank is None else rank,
            shuffle=False,
        )
        self.mine: Sequence[int] = range(self.rank, num_images, self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)

    def __len__(self) -> int:
        return len(self.mine)


class ImageLoader(DataLoader[Any]):
    """A DataLoader over an ImageDataset that refuses a bad image by its name, in the main process.

    Batch: (uint8 (N, S, S, 3), int64 (N,) or multi-hot float32 (N, C)).

    Attributes:
        skipped: None refuses a bad image; a list collects those that are left out of their batches.

    Raises:
        UserError: while iterating, at an image that cannot be decoded, a batch without a good one, or a lost source.
    """

    skipped: list[BadImage] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]  # its own is private
        for batch, bad in super().__iter__():
            if bad and bad[0].is_lost:
                raise MissingData(
                    f"{bad[0]}\nStart again once it is back; a fine-tuning goes on from its last.ckpt with `resume`."
                )
            if bad and self.skipped is None:
                raise DamagedFile(f"{bad[0]}\nRepair the image, or pass `on_bad_image`=skip to leave bad images out.")
            if batch is None:
                raise DamagedFile(f"{bad[0]}\nNo image of the batch can be read, nor the {len(bad) - 1} others in it.")
            if self.skipped is not None:
                self._skip(bad, self.skipped)
            yield batch

    @staticmethod
    def _skip(bad: list[BadImage], skipped: list[BadImage]) -> None:
        for image in bad:
            if image not in skipped:
                warnings.warn(f"left out {image}", stacklevel=3)
                skipped.append(image)


class ResumableLoader(ImageLoader):
    """An ImageLoader over an EpochSampler that continues an interrupted epoch after the last batch it gave.

    Lightning saves and restores its state with the checkpoint. `len()` stays that of a whole epoch, because
    Lightning's batch counter continues too.
    """

    _epoch = 0  # of the last batch given
    _batches = 0  # given in that epoch
    _resumes = False  # whether the next iteration continues that epoch

    def state_dict(self) -> dict[str, int]:
        """Plain numbers: the epoch and how many of its batches were given."""
        return {"epoch": self._epoch, "batches": self._batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration gives what remains of the saved epoch, or the next epoch if nothing does."""
        self._epoch, self._batches = state["epoch"], state["batches"]
        if self._batches >= len(self):
            self._epoch, self._batches = self._epoch + 1, 0
        self._resumes = self._batches > 0
        if isinstance(self.sampler, EpochSampler):
            self.sampler.set_epoch(self._epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]  # its own is private
        # A generator, so all this happens at the first batch: Lightning calls iter() before it calls set_epoch().
        sampler = self.sampler
        if isinstance(sampler, EpochSampler):  # Lightning's overfit_batches puts a sequential one in its place
            if not (self._resumes and sampler.epoch == self._epoch):
                self._epoch, self._batches = sampler.epoch, 0
            self._resumes = False
            sampler.start = self._batches * (self.batch_size or 1)
        for batch in super().__iter__():
            self._batches += 1
            yield batch


def collate(items: list[tuple[Pixels | BadImage, Tensor]]) -> tuple[tuple[Tensor, Tensor] | None, list[BadImage]]:
    """The batch of the good images, if any, and the bad ones, lost ones first.

    Raised in a worker, their names would drown in the traceback.
    """
    good = [(image, label) for image, label in items if not isinstance(image, BadImage)]
    bad = sorted((image for image, _ in items if isinstance(image, BadImage)), key=lambda image: not image.is_lost)
    if not good:
        return None, bad
    return (torch.from_numpy(np.stack([image for image, _ in good])), torch.stack([label for _, label in good])), bad


def default_num_workers() -> int:
    """Usable cores less one for the main process, between 1 and 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores - 1, 1), _MAX_DEFAULT_WORKERS)


def start_worker(worker_id: int) -> None:
    """A `worker_init_fn`: one thread, and signals are left to the main process.

    Workers already occupy the cores, OpenCV's own threads would fight over them. Ctrl-C and a scheduler's SIGTERM reach
    every process of a job, and the main process needs its workers until it has come to a good end. They end by its own
    SIGTERM, and soon after it is gone; one that never lets another Python thread run has to be killed.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not on macOS; and a worker that was not forked has threads already, which would take the signal.
    if hasattr(signal, "sigtimedwait") and multiprocessing.get_start_method() == "fork":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_main, args=(os.getppid(),), daemon=True).start()


def _end_with_main(main: int) -> None:
    while os.getppid() == main:
        told = signal.sigtimedwait({signal.SIGTERM}, 2)
        if told is not None and told.si_pid == main:
            break
    os._exit(0)  # also where the main thread waits for somebody to read what it has
