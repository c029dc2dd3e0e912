"""Tables with an image and a label column become splits: encoded images and class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from datamodules.dataset.sheet import ReadOptions, name_key
from datamodules.dataset.split import Split
from datamodules.images.listing import natural_key
from transfer.errors import BadValue, DamagedFile, nearest


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
    names, labels = read_labels(tables, source, label_column, options, official_names=official_names)
    splits = {}
    for split, table in tables.items():
        where = f"{source} {split}"
        images = _image_table(table, image_column, folder, where)
        splits[split] = Split(where, images, np.arange(len(table)), labels[split])
    return names, splits


def read_labels(
    tables: Mapping[str, datasets.Dataset],
    source: str,
    label_column: str,
    options: ReadOptions,
    *,
    official_names: Sequence[str] = (),
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Return the class names in index order, and each table's labels: int64 (N,), or multi-hot float32 (N, C).

    Args:
        See `read_splits`.

    Raises:
        UserError: There are lists where one label is expected, or a label lies outside the classes.
    """
    values: dict[str, list[Any]] = {}
    declared: list[str] | None = None
    for split, table in tables.items():
        where = f"{source} {split}"
        feature = table.features[label_column]
        inner = getattr(feature, "feature", feature)
        if inner is not feature and not options.multilabel:
            raise BadValue(f"{where}: column {label_column!r} holds lists of labels; set `multilabel`=True")
        declared = inner.names if isinstance(inner, datasets.ClassLabel) else declared
        column = table.with_format(None)[label_column]
        values[where] = [_as_labels(value, options) for value in column]
    if declared is None and official_names:
        declared = list(official_names)
        values = {where: _match_official(rows, official_names, where) for where, rows in values.items()}
    names = declared if declared is not None else _text_names(values)
    return tuple(names), {
        split: _encode(rows, names, declared is not None, options.multilabel, where)
        for split, (where, rows) in zip(tables, values.items(), strict=True)
    }


def encoded_images(images: Sequence[tuple[bytes | None, str | None]]) -> datasets.Dataset:
    """Return a table of images given as (encoded bytes, name) or (None, path)."""
    rows = [{"bytes": content, "path": path} for content, path in images]
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


def _as_labels(value: Any, options: ReadOptions) -> list[Any]:
    if not options.multilabel:
        return [value]
    if isinstance(value, str):
        return [part for part in value.split(options.label_separator) if part.strip()]
    return [value] if value is None or isinstance(value, int) else list(value)


def _text_names(values: Mapping[str, list[list[Any]]]) -> list[str]:
    found = {_text(label) for rows in values.values() for labels in rows for label in labels}
    return sorted(found - {""}, key=natural_key)


def _text(label: Any) -> str:
    return "" if label is None else str(label).strip()


def _match_official(rows: list[list[Any]], names: Sequence[str], where: str) -> list[list[Any]]:
    """Return text labels as official names; numbers stay, as indices."""
    official = {name_key(name): name for name in names}
    for row, labels in enumerate(rows):
        for label in labels:
            if not isinstance(label, int) and name_key(_text(label)) not in official:
                raise DamagedFile(
                    f"{where} row {row}: label {label!r} is no official class name"
                    f"{nearest(_text(label), names)} (they run from {names[0]!r} to {names[-1]!r})"
                )
    return [[label if isinstance(label, int) else official[name_key(_text(label))] for label in row] for row in rows]


def _encode(rows: list[list[Any]], names: list[str], are_indices: bool, multilabel: bool, where: str) -> Tensor:
    lookup: dict[Any, int] = {name: index for index, name in enumerate(names)}
    if are_indices:
        lookup |= {index: index for index in range(len(names))}
    encoded = torch.zeros(len(rows), len(names)) if multilabel else torch.zeros(len(rows), dtype=torch.int64)
    for row, labels in enumerate(rows):
        for label in labels:
            index = lookup.get(label if are_indices else _text(label))
            if index is None:
                allowed = f"0..{len(names) - 1} or a class name" if are_indices else "any non-empty text"
                raise DamagedFile(f"{where} row {row}: label {label!r} is not allowed (allowed: {allowed})")
            if multilabel:
                encoded[row, index] = 1
            else:
                encoded[row] = index
    return encoded


def _image_table(table: datasets.Dataset, column: str, folder: Path | None, where: str) -> datasets.Dataset:
    feature = table.features[column]
    if isinstance(feature, datasets.Image):
        images = table.select_columns(column).cast_column(column, datasets.Image(decode=False))
        return images if column == "image" else images.rename_column(column, "image")
    dtype = getattr(feature, "dtype", None)
    values = table.with_format(None)[column]
    if dtype in ("string", "large_string"):
        return encoded_images([(None, str((folder or Path()) / path) if path else "") for path in values])
    if dtype in ("binary", "large_binary"):
        return encoded_images([(content, None) for content in values])
    raise DamagedFile(f"{where}: column {column!r} is {feature}, not images, encoded bytes or file paths")
