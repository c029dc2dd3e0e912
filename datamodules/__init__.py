"""Datasets by name: `build_datamodule("cifar10", preprocessing=...)` gives train, val and test loaders."""

from __future__ import annotations

import os
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from datamodules.dataset.sheet import Sheet, Source, read_options
from transfer.errors import UserError, unknown_name

if TYPE_CHECKING:
    import datasets

    from datamodules.datamodule import DataModule
    from datamodules.dataset.loaded import Dataset
    from transfer.preprocessing import Preprocessing

__all__ = ["build_datamodule", "get_sheet", "list_datasets", "load_dataset"]

# Albumentations asks the network for its newest version on import; that stalls machines without one.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# name: the module and class of its sheet, imported only when asked for
_SHEETS: dict[str, tuple[str, str]] = {
    "aircraft": ("datamodules.sheets.aircraft", "Aircraft"),
    "birdsnap": ("datamodules.sheets.birdsnap", "Birdsnap"),
    "cars": ("datamodules.sheets.cars", "Cars"),
    "cifar10": ("datamodules.sheets.cifar", "CIFAR10"),
    "cifar100": ("datamodules.sheets.cifar", "CIFAR100"),
    "digits": ("datamodules.sheets.digits", "Digits"),
    "flowers": ("datamodules.sheets.flowers", "Flowers"),
    "folder": ("datamodules.sheets.folder", "Folder"),
    "food101": ("datamodules.sheets.food", "Food101"),
    "pets": ("datamodules.sheets.pets", "Pets"),
}


def list_datasets() -> list[str]:
    """Return the dataset names, sorted."""
    return sorted(_SHEETS)


def get_sheet(name: str) -> Sheet:
    """Return the sheet of a dataset: what is known of it without loading it.

    Raises:
        UserError: There is no such dataset; the text names the nearest and all there are.
    """
    if name not in _SHEETS:
        raise unknown_name("dataset", name, list_datasets())
    module, class_name = _SHEETS[name]
    sheet: Sheet = getattr(import_module(module), class_name)()
    return sheet


def load_dataset(data: str | Sheet | datasets.Dataset | datasets.DatasetDict, **options: Any) -> Dataset:
    """Read, check and cut a dataset, without any preprocessing.

    Args:
        data: One of `list_datasets()`, a Hugging Face `Dataset` or `DatasetDict`, or a sheet of your own.
        options: Fields of `datamodules.dataset.sheet.ReadOptions`, such as `data_root`.

    Raises:
        UserError: Unknown dataset or option, or data that cannot be read or trained on.
    """
    from datamodules.dataset.loaded import read_dataset

    return read_dataset(_source(data, options))


def build_datamodule(
    data: str | Sheet | datasets.Dataset | datasets.DatasetDict,
    *,
    preprocessing: Preprocessing | None = None,
    image_size: int | None = None,
    **options: Any,
) -> DataModule:
    """Return the datamodule of a dataset; nothing is read before its `setup()`.

    Args:
        data: One of `list_datasets()`, a Hugging Face `Dataset` or `DatasetDict`, or a sheet of your own.
        preprocessing: How the network wants its images: its weights', as `classifier.preprocessing`.
        image_size: Side of the network's input in pixels, in place of that of the preprocessing.
        options: Fields of `datamodules.dataset.sheet.ReadOptions`, such as `data_root`, and arguments of
            `datamodules.datamodule.DataModule`, such as `batch_size`.

    Raises:
        UserError: No preprocessing, an unknown dataset, or an option outside its range.
    """
    from datamodules.datamodule import DataModule

    if preprocessing is None:
        raise UserError(
            "`preprocessing` is missing: pass that of the network's weights, `classifier.preprocessing` or"
            " `get_weights(ROW).preprocessing`; for random weights one of your own, transfer.Preprocessing(...)"
        )
    loading = {name: options.pop(name) for name in signature(DataModule).parameters if name in options}
    return DataModule(_source(data, options), preprocessing, image_size=image_size, **loading)


def _source(data: str | Sheet | datasets.Dataset | datasets.DatasetDict, options: dict[str, Any]) -> Source:
    if isinstance(data, str):
        sheet = get_sheet(data)
    elif isinstance(data, Sheet):
        sheet = data
    else:
        from datamodules.sheets.loaded import Loaded

        sheet = Loaded(data)
    return Source(sheet, read_options(**options))
