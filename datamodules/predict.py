"""Batches of the user's own files, for prediction: no labels, and a bad file is reported instead of fatal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import albumentations as A
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.images.decode import BadImage, BadImageError, Pixels, decode_image
from datamodules.loaders import default_num_workers, start_worker

PredictBatch = tuple[Tensor, list[str], list[BadImage]]


class PredictDataset(Dataset[tuple[str, Pixels | BadImage]]):
    """Files by their position: (path as text, pixels or what is wrong with the file)."""

    def __init__(self, paths: list[Path], transform: A.Compose) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, Pixels | BadImage]:
        name = str(self.paths[index])
        try:
            return name, self.transform(image=decode_image(self.paths[index]))["image"]
        except BadImageError as error:
            return name, BadImage(name, str(error))


def _collate_predict(items: list[tuple[str, Pixels | BadImage]]) -> PredictBatch:
    good = [(name, image) for name, image in items if not isinstance(image, BadImage)]
    bad = [image for _, image in items if isinstance(image, BadImage)]
    images = np.stack([image for _, image in good]) if good else np.zeros((0, 0, 0, 3), np.uint8)
    return torch.from_numpy(images), [name for name, _ in good], bad


def build_predict_loader(
    paths: list[Path], transform: A.Compose, batch_size: int, num_workers: int | None = None
) -> DataLoader[PredictBatch]:
    """Batches of user files in the given order; bad ones are reported beside the batch and stop nothing.

    Args:
        paths: image files, see `list_images`.
        transform: see `build_eval_transform`.
        batch_size: images per batch, bad ones included.
        num_workers: processes that decode; None leaves one core free, up to 8.

    Shape:
        Each batch: (uint8 (N, S, S, 3), N names, the bad images), N <= batch_size and possibly 0.
    """
    return DataLoader(
        cast("Dataset[Any]", PredictDataset(paths, transform)),
        batch_size=batch_size,
        num_workers=default_num_workers() if num_workers is None else num_workers,
        collate_fn=_collate_predict,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
    )
