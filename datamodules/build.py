"""From a dataset's name, a sheet or a Hugging Face object to a `Dataset` or a `DataModule`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict, Unpack

import datasets

from datamodules.datamodule import DataModule
from datamodules.dataset.loaded import Dataset, read_dataset
from datamodules.dataset.sheet import Metric, ReadOptions, Sheet, Source
from datamodules.sheets import get_sheet
from datamodules.sheets.loaded import Loaded
from transfer.errors import BadValue, nearest
from transfer.preprocessing import Preprocessing


class ReadFields(TypedDict, total=False):
    """The fields of `ReadOptions`, as keywords."""

    data_root: str | Path | None
    on_bad_image: str
    train_on: str
    folds: int | None
    fold: int | None
    per_class: int | None
    fraction: float | None
    draw: int
    allow_decayed: bool
    val_fraction: float
    test_fraction: float
    multilabel: bool
    image_column: str | None
    label_column: str | None
    split_column: str | None
    group_column: str | None
    label_separator: str
    folder_layout: str
    hub_id: str | None
    stream: bool
    bit_depth: int | None
    max_pixels: int
    metric: Metric | None


class DataFields(ReadFields, total=False):
    """The same, and what `DataModule` takes besides the dataset, the preprocessing and the image size."""

    augment: str
    batch_size: int
    num_workers: int | None
    seed: int
    min_crop_area: float | None
    vertical_flip: bool
    quarter_turns: bool
    color_jitter: float
    progressive: int | None
    train_transform: Callable[..., Any] | None
    eval_transform: Callable[..., Any] | None
    cache: str
    cache_dir: str | Path | None


def load_dataset(data: str | Sheet | datasets.Dataset | datasets.DatasetDict, **options: Unpack[ReadFields]) -> Dataset:
    """Read, check and cut a dataset, without any preprocessing.

    Args:
        data: One of `list_datasets()`, a Hugging Face `Dataset` or `DatasetDict`, or a sheet of your own.
        options: Fields of `datamodules.dataset.sheet.ReadOptions`, such as `data_root`.

    Raises:
        UserError: Unknown dataset or option, or data that cannot be read or trained on.
    """
    _refuse_unknown(options, ReadFields.__annotations__)
    return read_dataset(_source(data, dict(options)))


def build_datamodule(
    data: str | Sheet | datasets.Dataset | datasets.DatasetDict,
    *,
    preprocessing: Preprocessing | None = None,
    image_size: int | None = None,
    **options: Unpack[DataFields],
) -> DataModule:
    """Return the datamodule of a dataset; nothing is read before its `setup()`.

    Args:
        data: One of `list_datasets()`, a Hugging Face `Dataset` or `DatasetDict`, or a sheet of your own.
        preprocessing: How the network wants its images: its weights', as `classifier.preprocessing`.
        image_size: Side of the network's input in pixels, in place of that of the preprocessing.
        options: Fields of `datamodules.dataset.sheet.ReadOptions`, such as `data_root`, and arguments of
            `datamodules.datamodule.DataModule`, such as `batch_size`.

    Raises:
        UserError: No preprocessing, an unknown dataset or option, or an option outside its range.
    """
    _refuse_unknown(options, ("preprocessing", "image_size", *DataFields.__annotations__))
    if preprocessing is None:
        raise BadValue(
            "`preprocessing` is missing: pass that of the network's weights, `classifier.preprocessing` or"
            " `get_weights(ROW).preprocessing`; for random weights one of your own, transfer.Preprocessing(...)"
        )
    loading: dict[str, Any] = dict(options)
    reading = {name: loading.pop(name) for name in ReadFields.__annotations__ if name in loading}
    return DataModule(_source(data, reading), preprocessing, image_size=image_size, **loading)


def _source(data: str | Sheet | datasets.Dataset | datasets.DatasetDict, options: dict[str, Any]) -> Source:
    if isinstance(data, str):
        data = get_sheet(data)
    return Source(data if isinstance(data, Sheet) else Loaded(data), ReadOptions(**options))


def _refuse_unknown(given: Iterable[str], allowed: Iterable[str]) -> None:
    names = list(allowed)
    for name in given:
        if name not in names:
            raise BadValue(f"unknown option `{name}`{nearest(name, names)} (allowed: {', '.join(names)})")
