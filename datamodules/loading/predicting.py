"""Batches of the user's own files, without labels; what cannot be read is reported beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import albumentations as A
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.images.transforms import output_bytes, prepare
from datamodules.loading.resources import ExplainingLoader, check_workers
from datamodules.loading.workers import count_workers, start_worker
from transfer.images.decode import BadImage, BadImageError, Pixels, decode_image
from transfer.images.depth import DEFAULT_DECODING, Decoding

PredictBatch = tuple[Tensor, list[str], list[BadImage]]
Prepared = tuple[str, Pixels | BadImage]


class PredictDataset(Dataset[Prepared]):
    """Files by their position: (path as text, pixels or what is wrong with the file)."""

    is_thread_safe = True

    def __init__(self, paths: list[Path], transform: A.Compose, decoding: Decoding) -> None:
        self.paths = paths
        self.transform = transform
        self.decoding = decoding

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Prepared:
        name = str(self.paths[index])
        try:
            return name, prepare(self.transform, decode_image(self.paths[index], self.decoding))
        except BadImageError as error:
            return name, BadImage(name, str(error))

    def __getitems__(self, indices: Sequence[int]) -> list[Prepared]:
        return [self[index] for index in indices]


def build_predict_loader(
    paths: list[Path],
    transform: A.Compose,
    batch_size: int,
    num_workers: int | None = None,
    decoding: Decoding = DEFAULT_DECODING,
) -> DataLoader[PredictBatch]:
    """Return batches of the user's own files, in the given order; bad files are reported beside the batch.

    Args:
        paths: image files, see `list_images`.
        transform: see `build_eval_transform`.
        batch_size: images per batch, bad ones included.
        num_workers: threads that decode, or beside a GPU processes; None leaves one core free, up to 8.
        decoding: how images become pixels, a run's `decoding`.

    Shape:
        Each batch: (uint8 (N, S, S, 3), N names, the bad images), with N <= batch_size and possibly 0.
    """
    workers = count_workers(num_workers)
    dataset = PredictDataset(paths, transform, decoding)
    check_workers(dataset, workers, batch_size * output_bytes(transform))
    return ExplainingLoader(
        cast("Dataset[Any]", dataset),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
    )


def collate(items: list[Prepared]) -> PredictBatch:
    """Return the images that could be read as a batch, and beside it those that could not."""
    good = [(name, image) for name, image in items if not isinstance(image, BadImage)]
    bad = [image for _, image in items if isinstance(image, BadImage)]
    images = np.stack([image for _, image in good]) if good else np.zeros((0, 0, 0, 3), np.uint8)
    return torch.from_numpy(images), [name for name, _ in good], bad
