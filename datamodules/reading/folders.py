"""The user's own images: class folders, tables of paths and labels, and saved or loaded `datasets` objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np

from datamodules.dataset.sheet import ReadOptions
from datamodules.dataset.split import Split
from datamodules.reading.class_folders import scan_class_folders
from datamodules.reading.columns import choose_columns
from datamodules.reading.split_names import SPLIT_ALIASES, find_splits
from datamodules.reading.table_files import open_saved, open_table
from datamodules.reading.tables import read_splits
from transfer.errors import BadValue, DamagedFile, MissingData

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
        return read_tables(open_table(root), str(root), options, root.parent)
    if not root.is_dir():
        found = "neither a file nor a folder" if root.exists() else "no such file or folder"
        raise MissingData(f"`data_root`={root}: {found}")
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        return read_tables(open_saved(root), str(root), options, root)
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
    whole = {"": found} if isinstance(found, datasets.Dataset) else dict(found)
    columns = choose_columns(whole, where, options)
    whole = {name: columns.add_labels(table, f"{where} {name}".rstrip()) for name, table in whole.items()}
    if isinstance(found, datasets.Dataset):
        tables = _split_table(whole[""], columns.split, where)
    else:
        tables = _translate(whole, where)
    return read_splits(tables, where, columns.image, columns.label, options, folder=folder)


def _split_table(table: datasets.Dataset, column: str | None, where: str) -> Tables:
    if column is None:
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
    return {name: table.select(np.flatnonzero(ours == name)) for name in dict.fromkeys(ours)}


def _translate(found: Mapping[str, datasets.Dataset], where: str) -> Tables:
    splits = find_splits(map(str, found))
    for name in found:
        if name not in splits:
            raise DamagedFile(f"{where}: split {name!r} is none of {', '.join(SPLIT_ALIASES)}; rename or remove it")
    if len(set(splits.values())) < len(splits):
        raise DamagedFile(f"{where}: two tables for one split: {', '.join(splits)}; keep one of each")
    return {splits[str(name)]: table for name, table in found.items()}
