"""Tables with an image and a label column become splits: encoded images and class indices."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor

from datamodules.dataset.sheet import ReadOptions
from datamodules.dataset.split import Split
from datamodules.reading.labels import as_text, read_labels
from transfer.errors import DamagedFile, MissingData, nearest
from transfer.images.listing import walk_files


def read_splits(
    tables: Mapping[str, datasets.Dataset],
    source: str,
    image_column: str,
    label_column: str,
    options: ReadOptions,
    *,
    folder: Path | None = None,
    official_names: Sequence[str] = (),
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Return the class names in index order, and one split per table.

    A ClassLabel feature decides the order of the classes. Without one, it is the official order if there is one, else
    the labels are text, natural-sorted over all splits.

    Args:
        tables: The table of each split.
        source: What errors call the dataset.
        image_column: Column of Image features, encoded bytes or file paths.
        label_column: Column of ClassLabels, numbers or text; with `multilabel` of lists of these, or separated text.
        options: Whether an image may have several labels, and what separates them in a text column.
        folder: Folder from which relative paths start.
        official_names: Class names in the authors' order, for tables that do not declare them.

    Raises:
        UserError: A column is missing or of the wrong kind, or a label lies outside the classes.
    """
    for split, table in tables.items():
        require_column(table.column_names, label_column, "label_column", f"{source} {split}")
        require_column(table.column_names, image_column, "image_column", f"{source} {split}")
        if options.group_column is not None:
            require_column(table.column_names, options.group_column, "group_column", f"{source} {split}")
    names, labels = read_labels(tables, source, label_column, options, official_names=official_names)
    splits = {}
    listed = {}
    for split, table in tables.items():
        where = f"{source} {split}"
        images, paths = _read_images(table, image_column, folder, where)
        if paths is not None:
            listed[split] = paths
        groups = None if options.group_column is None else _read_groups(table, options.group_column, where)
        splits[split] = Split(where, images, np.arange(len(table)), labels[split], groups)
    _refuse_contradictions(listed, labels, source)
    return names, splits


def encoded_images(images: Sequence[tuple[bytes | None, str | None]]) -> datasets.Dataset:
    """Return a table of images given as (encoded bytes, name) or (None, path); (None, None) is an empty file."""
    rows = [{"bytes": content if content or path else b"", "path": path} for content, path in images]
    return datasets.Dataset.from_dict({"image": rows}, datasets.Features({"image": datasets.Image(decode=False)}))


def require_column(columns: Sequence[str], name: str, option: str, where: str) -> None:
    """Check that a table has a column.

    Raises:
        UserError: `name` is not among `columns`; the text lists them and names the option that chooses another.
    """
    if name not in columns:
        raise DamagedFile(
            f"{where}: no column {name!r}{nearest(name, columns)} (columns: {', '.join(columns)}); "
            f"choose one with `{option}`"
        )


def require_image_column(kind: pa.DataType, name: str, where: str) -> None:
    """Check that a parquet column holds encoded images.

    Raises:
        UserError: It is neither a struct with `bytes` nor binary.
    """
    has_bytes = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (has_bytes or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DamagedFile(f"{where}: column {name!r} is {kind}, not images or encoded bytes")


def _read_groups(table: datasets.Dataset, column: str, where: str) -> NDArray[np.str_]:
    groups = [as_text(value) for value in table.with_format(None)[column]]
    if missing := [row for row, group in enumerate(groups) if group.lower() in ("", "nan")]:
        raise DamagedFile(f"{where} row {missing[0]}: no value in {column!r}: give every image a group")
    return np.array(groups, str)


def _read_images(
    table: datasets.Dataset, column: str, folder: Path | None, where: str
) -> tuple[datasets.Dataset, list[str] | None]:
    """Return a table of encoded images, and their paths if the column holds only these."""
    feature = table.features[column]
    values = table.with_format(None)
    dtype = getattr(feature, "dtype", None)
    is_text = dtype in ("string", "large_string")
    if isinstance(feature, datasets.Image):
        images = table.select_columns(column).cast_column(column, datasets.Image(decode=False))
        images = images if column == "image" else images.rename_column(column, "image")
        if not _has_paths(images.data.column("image")):
            return images, None
        contents = [image and image["bytes"] for image in images["image"]]
        paths = [image and image["path"] for image in images["image"]]
    elif is_text:
        contents, paths = [None] * len(table), list(values[column])
    elif dtype in ("binary", "large_binary"):
        return encoded_images([(content, None) for content in values[column]]), None
    else:
        raise DamagedFile(f"{where}: column {column!r} is {feature}, not images, encoded bytes or file paths")
    rows = [row for row, content in enumerate(contents) if content is None and (paths[row] or is_text)]
    found = dict(zip(rows, _find_files({row: paths[row] for row in rows}, folder or Path(), where), strict=True))
    images = encoded_images([(content, found.get(row, paths[row])) for row, content in enumerate(contents)])
    return images, list(found.values()) if len(found) == len(table) else None


def _has_paths(images: pa.ChunkedArray) -> bool:
    """Return whether there are images without bytes that have a path."""
    outside = pc.and_(pc.is_null(pc.struct_field(images, "bytes")), pc.is_valid(pc.struct_field(images, "path")))
    return bool(pc.any(outside).as_py())


def _find_files(paths: Mapping[int, str | None], folder: Path, where: str) -> list[str]:
    """Return the path of the image in each row; Windows' backslashes and blanks around it are understood.

    Raises:
        UserError: A path is missing or a web address, or no image is where its path says.
    """
    found, present = [], 0
    for row, path in paths.items():
        if not path or "\0" in path:
            raise DamagedFile(f"{where} row {row}: {path!r} is no path of an image")
        if "://" in path:
            raise DamagedFile(f"{where} row {row}: {path} is a web address; download the images, and give their paths")
        spellings = [str(folder / spelling) for spelling in (path, path.strip(), path.strip().replace("\\", "/"))]
        existing = next(filter(os.path.exists, spellings), None)
        present += existing is not None
        found.append(existing or spellings[0])
    if paths and not present:
        raise MissingData(
            f"{where}: none of its {len(paths)} images is there, such as {found[0]}{_hint(found[0], folder)}"
        )
    return found


def _hint(missing: str, folder: Path) -> str:
    name = Path(missing).name
    elsewhere = next((file for file in walk_files(folder) if file.name == name), None) if folder.is_dir() else None
    place = f"; {elsewhere} has that name" if elsewhere else ""
    return f"{place}; write absolute paths, or paths that start in {folder}"


def _refuse_contradictions(listed: Mapping[str, Sequence[str]], labels: Mapping[str, Tensor], source: str) -> None:
    """Refuse an image that is listed twice under different labels."""
    first: dict[str, tuple[str, Any]] = {}
    for split, paths in listed.items():
        for row, (path, label) in enumerate(zip(paths, labels[split].tolist(), strict=True)):
            place, label_there = first.setdefault(path, (f"{split} row {row}", label))
            if label != label_there:
                raise DamagedFile(
                    f"{source}: {path} is listed twice with different labels, in {place} and {split} row {row}; keep"
                    " one row, or for several labels write them into one cell and set `multilabel`=True"
                )
