"""The user's own images: class folders, tables of paths and labels, and saved or loaded `datasets` objects."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np

from datamodules.dataset.sheet import ReadOptions
from datamodules.dataset.split import Split
from datamodules.images.listing import is_image, natural_key, walk_files
from datamodules.reading.tables import read_splits, require_column
from transfer.errors import BadValue, DamagedFile, MissingData

# What people call the three splits, as folders or as values of a split column, in lower case.
SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
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
    return read_splits(scan_class_folders(root), str(root), "image", "label", options)


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
    values = [str(value).strip().lower() for value in table.with_format(None)[column]]
    for row, value in enumerate(values):
        if value not in SPLIT_ALIASES:
            raise DamagedFile(f"{where} row {row}: split {value!r} is none of {', '.join(SPLIT_ALIASES)}")
    ours = np.array([SPLIT_ALIASES[value] for value in values])
    return _with_train({name: table.select(np.flatnonzero(ours == name)) for name in dict.fromkeys(ours)}, where)


def scan_class_folders(root: Path) -> Tables:
    """Return one table (image path, class name) per split below `root`.

    Raises:
        UserError: There are folders beside the splits, images outside any class folder, or no images.
    """
    folders = [path for path in sorted(root.iterdir(), key=lambda path: natural_key(path.name)) if _is_visible(path)]
    splits = {path: SPLIT_ALIASES[path.name.lower()] for path in folders if path.name.lower() in SPLIT_ALIASES}
    if not splits:
        return {"train": _scan_classes(root)}
    if others := [path.name for path in folders if path not in splits]:
        raise DamagedFile(
            f"{root}: {', '.join(others)} beside the splits {', '.join(path.name for path in splits)}; "
            "keep only the split folders there, or only class folders"
        )
    if len(set(splits.values())) < len(splits):
        raise DamagedFile(f"{root}: two folders for one split: {', '.join(path.name for path in splits)}")
    return _with_train({name: _scan_classes(path) for path, name in splits.items()}, str(root))


def _is_visible(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"


def _scan_classes(folder: Path) -> datasets.Dataset:
    paths: list[str] = []
    labels: list[str] = []
    others = 0
    for file in walk_files(folder):
        if not is_image(file):
            others += 1
        elif file.parent == folder:
            raise DamagedFile(f"{file}: this image lies outside any class folder; move it to {folder}/<class>/")
        else:
            paths.append(str(file))
            labels.append(file.relative_to(folder).parts[0])
    if not paths:
        raise MissingData(
            f"{folder}: no images in class folders ({others} other files); expected {folder}/<class>/*.jpg"
        )
    return datasets.Dataset.from_dict({"image": paths, "label": labels})


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
    for name in found:
        if str(name).lower() not in SPLIT_ALIASES:
            raise DamagedFile(f"{where}: split {name!r} is none of {', '.join(SPLIT_ALIASES)}")
    return _with_train({SPLIT_ALIASES[str(name).lower()]: table for name, table in found.items()}, where)


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
