"""Batches: datasets whose items torch's own collate stacks, and loaders that shard themselves and resume mid-epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset

from datamodules.dataset.split import Split
from datamodules.images.pictures import Picture, open_picture
from datamodules.images.transforms import Transform, apply_transform, output_bytes, seed_transform
from datamodules.images.user_transform import UserTransform
from datamodules.loading.image_cache import ImageCache
from datamodules.loading.resources import ExplainingLoader, check_workers
from datamodules.loading.samplers import EpochSampler, RankSampler, StreamEvalSampler, distributed_position
from datamodules.loading.workers import start_worker
from transfer.errors import DamagedFile
from transfer.images.decode import (
    BadImage,
    BadImageError,
    LostImageError,
    WorkerError,
)


class UnreadableImageError(WorkerError, DamagedFile):
    """An image that a loader cannot read; the text names it and says what to do."""


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """Decoded and transformed images of a split, with their labels.

    Each item is a tuple (image, label), which torch's default collate stacks. An index may come with a seed,
    (index, seed), on which alone the augmentation then depends; without one, a random transform draws its seed from
    torch's generator, as torch's own do. So a Hugging Face `Trainer` takes it as `train_dataset`, with a
    `data_collator` that makes of a list of items the dictionary that the model wants. In a progressive run an item is
    (index, seed, stage).

    Args:
        split: images and labels.
        transform: see `build_train_transform`, `build_eval_transform` and `UserTransform`.
        cache: the split's images, decoded and resized; None decodes each image when it is asked for.
        is_training: whether an index without a seed is augmented at random. Otherwise it gives the same pixels always.
        earlier: transforms of a progressive run's stages before the last one, which is that of `transform`.
        skipped: None refuses an image that cannot be read. A list collects such images, and they are left out of their
            batches.

    Shape:
        image: uint8 (S, S, 3), or float32 (3, S, S) from a transform of the user's own that normalises.
        label: int64 (), or multi-hot float32 (C,).

    Raises:
        UnreadableImageError: an image that cannot be read, or whose source is lost; the text names it.
    """

    def __init__(
        self,
        split: Split,
        transform: Transform,
        cache: ImageCache | None = None,
        *,
        is_training: bool = False,
        earlier: Sequence[Transform] = (),
        skipped: list[BadImage] | None = None,
    ) -> None:
        self.split = split
        self.transform = transform
        self.cache = cache
        self.is_training = is_training
        self._stages = (*earlier, transform)
        self.skipped = skipped
        # Shared with the worker processes, which set what the main process reads.
        self._left_out = torch.zeros(0 if skipped is None else len(split), dtype=torch.bool)
        self._left_out.share_memory_()  # type: ignore[no-untyped-call]  # torch's types
        self._num_reported = 0
        # Which images have been decoded whole. The first crop of a JPEG looks for damage below its last row, too.
        self._sound = torch.full((len(split) if is_training else 0,), split.is_checked)
        self._sound.share_memory_()  # type: ignore[no-untyped-call]  # torch's types

    @property
    def is_thread_safe(self) -> bool:
        """Whether several threads may read it: images in memory or in files, which are not augmented."""
        is_local = isinstance(self.split.table, datasets.Dataset)
        return is_local and not self.is_training and not isinstance(self.transform, UserTransform)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
        index, seed, *stage = item if isinstance(item, tuple) else (item, self._draw_seed())
        transform = self._stages[stage[0]] if stage else self.transform
        if seed is not None:
            seed_transform(transform, seed)
        try:
            picture = self._open(index) if self.cache is None else self.cache[index]
            image = apply_transform(transform, picture)
        except LostImageError as error:
            raise UnreadableImageError(
                f"{self.split.name}: {error}\n"
                "Start again once it is back; a fine-tuning goes on from its last.ckpt with `resume`."
            ) from error
        except BadImageError as error:
            raise UnreadableImageError(
                f"{self.split.image_name(index)}: {error}\n"
                "Repair the image, or set `on_bad_image`=skip to leave bad images out."
            ) from error
        if self.is_training:
            self._sound[index] = True
        if isinstance(image, np.ndarray):
            image = torch.from_numpy(np.require(image, requirements=("C", "W")))
        return image, self.split.labels[index]

    def _open(self, index: int) -> Picture:
        is_sound = self.is_training and bool(self._sound[index])
        return open_picture(self.split.encoded(index), self.split.decoding, is_sound=is_sound)

    def __getitems__(self, items: Sequence[int | tuple[int, ...]]) -> list[tuple[Tensor, Tensor]]:
        """Return the items of a batch, without those that `skipped` collects."""
        if self.skipped is None:
            return [self[item] for item in items]
        good = []
        for item in items:
            try:
                good.append(self[item])
            except UnreadableImageError as error:
                if isinstance(error.__cause__, LostImageError):
                    raise
                self._left_out[item[0] if isinstance(item, tuple) else item] = True
                last = error
        if not good:
            raise UnreadableImageError(f"{last}\nNor can any other image of its batch be read.")
        return good

    def _draw_seed(self) -> int | None:
        return int(torch.randint(2**62, ())) if self.is_training else None

    def report_skipped(self) -> None:
        """Warn of the images that were left out since the last call, and add them to `skipped`."""
        if self.skipped is None or int(self._left_out.sum()) == self._num_reported:
            return
        indices = self._left_out.nonzero().flatten().tolist()
        self._num_reported = len(indices)
        for index in indices:
            image = self.split.check(index)
            if image is not None and image not in self.skipped:
                warnings.warn(f"left out {image}", stacklevel=3)
                self.skipped.append(image)


class ImageLoader(ExplainingLoader):
    """A loader over an ImageDataset whose RankSampler it divides among the ranks when an iteration starts.

    So a loader made before the process group is divided too. Batches are torch's own, [images, labels].

    Shape:
        images: uint8 (N, S, S, 3), or float32 (N, 3, S, S) from a transform of the user's own that normalises.
        labels: int64 (N,), or multi-hot float32 (N, C).
    """

    @property
    def rank_sampler(self) -> RankSampler[Any] | None:
        """The sampler that is divided; None if somebody has put another in its place."""
        sampler = getattr(self.batch_sampler, "sampler", None)  # Lightning wraps the batch sampler to predict
        return sampler if isinstance(sampler, RankSampler) else None

    def positions(self) -> list[int]:
        """Return this rank's images in the order in which the next iteration yields them."""
        sampler = self.rank_sampler
        items = list(self.sampler) if sampler is None else sampler.items(*distributed_position())
        return [item[0] if isinstance(item, tuple) else item for item in items]

    def examples(self, most: int) -> Tensor:
        """Return up to so many of this rank's readable images from all over the split, in no worker, as a batch."""
        positions = self.positions()
        # A stream fetches neighbours together.
        step = 1 if isinstance(self.rank_sampler, StreamEvalSampler) else max(1, len(positions) // most)
        items = cast("ImageDataset", self.dataset).__getitems__(positions[::step][:most])
        return torch.stack([torch.as_tensor(image) for image, _ in items])

    def __len__(self) -> int:
        sampler, batches = self.rank_sampler, cast(BatchSampler, self.batch_sampler)
        if sampler is None:
            return super().__len__()
        count, size = sampler.count(*distributed_position()), batches.batch_size
        return count // size if self._drops_last(count, size) else math.ceil(count / size)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # its own is private
        return self._iterate(0)

    def _iterate(self, num_seen: int) -> Iterator[Any]:
        """Yield this rank's batches, after the first `num_seen` ones of the epoch."""
        sampler, batches = self.rank_sampler, cast(BatchSampler, self.batch_sampler)
        if sampler is not None:
            rank, world_size = distributed_position()
            batches.drop_last = self._drops_last(sampler.count(rank, world_size), batches.batch_size)
            sampler.divide(rank, world_size, num_seen * batches.batch_size)
        for batch in super().__iter__():
            if isinstance(self.dataset, ImageDataset):
                self.dataset.report_skipped()
            yield batch

    def _drops_last(self, count: int, size: int) -> bool:
        """Whether the last partial batch is left out: never if it is the only one."""
        return self.drop_last and count >= size


class ResumableLoader(ImageLoader):
    """An ImageLoader over an EpochSampler that continues an interrupted epoch after the last batch it yielded.

    Lightning saves and restores its state with the checkpoint. `len()` stays that of a whole epoch, because
    Lightning's batch counter continues too.
    """

    _epoch = 0  # of the last batch yielded
    _batches = 0  # yielded in that epoch
    _resumes = False  # whether the next iteration continues that epoch

    def state_dict(self) -> dict[str, int]:
        """Return plain numbers: the epoch and how many of its batches were yielded."""
        return {"epoch": self._epoch, "batches": self._batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration yield the rest of the saved epoch, or the next epoch if nothing is left of it."""
        self._epoch, self._batches = state["epoch"], state["batches"]
        if self._batches >= len(self):
            self._epoch, self._batches = self._epoch + 1, 0
        self._resumes = self._batches > 0
        if isinstance(self.rank_sampler, EpochSampler):
            self.rank_sampler.set_epoch(self._epoch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # its own is private
        # A generator, so all this happens at the first batch: Lightning calls iter() before it calls set_epoch().
        sampler = self.rank_sampler
        if isinstance(sampler, EpochSampler):  # Lightning's overfit_batches puts a sequential one in its place
            if not (self._resumes and sampler.epoch == self._epoch):
                self._epoch, self._batches = sampler.epoch, 0
            self._resumes = False
        for batch in self._iterate(self._batches):
            self._batches += 1
            yield batch


Loader = TypeVar("Loader", bound=ImageLoader)


def build_loader(
    kind: type[Loader],
    images: ImageDataset,
    sampler: RankSampler[Any],
    batch_size: int,
    num_workers: int,
    *,
    drop_last: bool,
) -> Loader:
    """Return a loader of this kind.

    Raises:
        BadValue: its workers would fill the shared memory.
    """
    check_workers(images, num_workers, batch_size * output_bytes(images.transform))
    return kind(
        images,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=num_workers,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        # Its own, or starting an iterator would draw from the generator of dropout and mixing, and a resumed run
        # starts one more.
        generator=torch.Generator(),
    )
