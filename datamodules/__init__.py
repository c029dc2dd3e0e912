"""Datasets by name: `build_datamodule("cifar10", image_size=224)` gives train, val and test loaders."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from transfer.errors import unknown_name

if TYPE_CHECKING:
    from datamodules.base import TransferDataModule

# Albumentations asks the network for its newest version on import; that stalls machines without one.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# name: the module and class of its data sheet, imported only when asked for
_DATASETS: dict[str, tuple[str, str]] = {
    "aircraft": ("datamodules.sheets.aircraft", "AircraftDataModule"),
    "birdsnap": ("datamodules.sheets.birdsnap", "BirdsnapDataModule"),
    "cars": ("datamodules.sheets.cars", "CarsDataModule"),
    "cifar10": ("datamodules.sheets.cifar", "CIFAR10DataModule"),
    "cifar100": ("datamodules.sheets.cifar", "CIFAR100DataModule"),
    "digits": ("datamodules.sheets.digits", "DigitsDataModule"),
    "flowers": ("datamodules.sheets.flowers", "FlowersDataModule"),
    "folder": ("datamodules.sheets.folder", "FolderDataModule"),
    "food101": ("datamodules.sheets.food", "Food101DataModule"),
    "pets": ("datamodules.sheets.pets", "PetsDataModule"),
}


class DataOptions(TypedDict, total=False):
    """The arguments of `TransferDataModule`, where they are described and have their defaults."""

    data_root: str | Path | None
    image_size: int | None
    crop_ratio: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str
    augment: str
    batch_size: int
    num_workers: int | None
    seed: int
    on_bad_image: str
    train_on: str
    allow_decayed: bool
    val_fraction: float
    min_crop_area: float | None
    multilabel: bool
    image_column: str | None
    label_column: str | None
    split_column: str | None
    label_separator: str
    cache: str
    cache_dir: str | Path | None
    stream: bool


def list_datasets() -> list[str]:
    """The dataset names, sorted."""
    return sorted(_DATASETS)


def get_dataset(name: str) -> type[TransferDataModule]:
    """The data sheet of a dataset: a class whose attributes say what is known without loading it.

    Raises:
        UserError: no such dataset; the text names the nearest and all there are.
    """
    if name not in _DATASETS:
        raise unknown_name("dataset", name, list_datasets())
    module, class_name = _DATASETS[name]
    dataset: type[TransferDataModule] = getattr(import_module(module), class_name)
    return dataset


def build_datamodule(name: str, **options: Unpack[DataOptions]) -> TransferDataModule:
    """The datamodule of a dataset; nothing is read before its `setup()`.

    Args:
        name: one of `list_datasets()`.
        options: see `TransferDataModule`.

    Raises:
        UserError: an unknown dataset, or an option outside its range.
    """
    return get_dataset(name)(**options)
