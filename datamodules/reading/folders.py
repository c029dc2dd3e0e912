"""The user's own images: class folders, tables of paths and labels, and saved or loaded `datasets` objects."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np

from datamodules.dataset.sheet import ReadOptions
from datamodules.dataset.split import Split
from datamodules.reading.class_folders import scan_class_folders
from datamodules.reading.split_names import SPLIT_ALIASES, find_splits
from datamodules.reading.tables import read_splits, require_column
from transfer.errors import BadValue, DamagedFile, MissingData

# Column names that are recognised unless the user gives one; the first that the table has is taken.
IMAGE_COLUMNS = ("image", "img", "path", "image_path", "file_name", "filename", "file")
LABEL_COLUMNS = ("label", "labels", "class", "class_name")
SPLIT_COLUMNS = ("split",)

Tables = dict[str, datasets.Dataset]


def read_folder(options: ReadOptions) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Return the class names in natural order and the splits that `data_root`, a folder or table, has.

    Raises:
        UserError: There is nothing, or its layout leaves open what is meant.
    """
    root = options.root
    if root is None:
        raise BadValue("dataset 'folder' needs `data_root`: a folder of class folders, or a CSV or parquet file")
    if root.is_file():
        return read_tables(_open_table(root), str(root), options, root.parent)
    if not root.is_dir():
        raise MissingData(f"`data_root`={root}: no such file or folder")
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        return read_tables(datasets.load_from_disk(str(root)), str(root), options, root)
    return read_splits(scan_class_folders(root, options.folder_layout), str(root), "image", "label", options)


def read_tables(
    found: datasets.Dataset | datasets.DatasetDict, where: str, options: ReadOptions, folder: Path | None = None
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Return the class names in index order and the splits of a table, by its split column, or of a dict of tables.

    Args:
        found: The table or tables.
        where: What errors call them.
        options: Name the columns that are not recognised.
        folder: Folder from which relative paths start.

    Raises:
        UserError: A column is missing or of the wrong kind, or a split has a strange name.
    """
    tables = _split_table(found, where, options) if isinstance(found, datasets.Dataset) else _translate(found, where)
    columns = next(iter(tables.values())).column_names
    return read_splits(
        tables,
        where,
        options.image_column or _recognise("image_column", IMAGE_COLUMNS, columns, where),
        options.label_column or _recognise("label_column", LABEL_COLUMNS, columns, where),
        options,
        folder=folder,
    )


def _split_table(table: datasets.Dataset, where: str, options: ReadOptions) -> Tables:
    column = options.split_column
    if column is not None:
        require_column(table.column_names, column, "split_column", where)
    elif not (column := next((name for name in SPLIT_COLUMNS if name in table.column_names), None)):
        return {"train": table}
    values = [str(value).strip() for value in table.with_format(None)[column]]
    splits = find_splits(set(values))
    for row, value in enumerate(values):
        if value not in splits:
            raise DamagedFile(
                f"{where} row {row}: split {value!r} in column {column!r} is none of {', '.join(SPLIT_ALIASES)}; write"
                " one of these, or rename the column if it says something else"
            )
    ours = np.array([splits[value] for value in values])
    return _with_train({name: table.select(np.flatnonzero(ours == name)) for name in dict.fromkeys(ours)}, where)


def _open_table(file: Path) -> datasets.Dataset:
    if file.suffix.lower() == ".parquet":
        table = datasets.Dataset.from_parquet(str(file))
        assert isinstance(table, datasets.Dataset)
        return table
    if file.suffix.lower() != ".csv":
        raise BadValue(f"{file}: a table must be a .csv or .parquet file")
    with file.open(encoding="utf-8-sig", newline="") as stream:  # Excel starts its CSV with a byte-order mark
        header, *rows = list(csv.reader(stream)) or [[]]
    for row, values in enumerate(rows):
        if len(values) != len(header):
            raise DamagedFile(f"{file} row {row}: {len(values)} values for {len(header)} columns")
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    types = datasets.Features(dict.fromkeys(header, datasets.Value("string")))
    return datasets.Dataset.from_dict({name: list(column) for name, column in zip(header, columns, strict=True)}, types)


def _translate(found: datasets.DatasetDict, where: str) -> Tables:
    splits = find_splits(map(str, found))
    for name in found:
        if name not in splits:
            raise DamagedFile(f"{where}: split {name!r} is none of {', '.join(SPLIT_ALIASES)}; rename or remove it")
    if len(set(splits.values())) < len(splits):
        raise DamagedFile(f"{where}: two tables for one split: {', '.join(splits)}; keep one of each")
    return _with_train({splits[str(name)]: table for name, table in found.items()}, where)


def _with_train(tables: Tables, where: str) -> Tables:
    if "train" not in tables:
        raise MissingData(f"{where}: no train split (found: {', '.join(tables)})")
    return tables


def _recognise(option: str, candidates: Sequence[str], columns: Sequence[str], where: str) -> str:
    for name in candidates:
        if name in columns:
            return name
    raise DamagedFile(
        f"{where}: none of the columns {', '.join(columns)} is one of {', '.join(candidates)}; "
        f"choose one with `{option}`"
    )
