"""Which columns of the user's own table hold the images, the labels and the splits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from datamodules.dataset.sheet import ReadOptions
from datamodules.reading.tables import require_column
from transfer.errors import BadValue, DamagedFile
from transfer.images.listing import is_image

# Names that are recognised, whatever their case, unless the user gives one; the first that the table has is taken.
IMAGE_COLUMNS = (
    *("image", "img", "path", "image_path", "file_name", "filename", "file", "filepath", "file_path", "image_id"),
    *("image_name", "img_path"),
)
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
SPLIT_COLUMNS = ("split",)
_ZERO_OR_ONE = {
    **dict.fromkeys(("0", "0.0", "false"), 0),
    **dict.fromkeys(("1", "1.0", "true"), 1),
}


@dataclass(frozen=True)
class Columns:
    """The columns of a table.

    Args:
        image, label: their names.
        split: the column that says train, val or test, if there is one.
        per_label: columns that hold 1 where the image has the label of their name, to be joined into `label`.
        multilabel: whether an image may have any number of these.
    """

    image: str
    label: str
    split: str | None
    per_label: tuple[str, ...] = ()
    multilabel: bool = False

    def add_labels(self, table: datasets.Dataset, where: str) -> datasets.Dataset:
        """Return the table with the columns of `per_label` joined into one of ClassLabels, if there are any.

        Raises:
            UserError: A cell is neither 0 nor 1, or an image has no label or several and that is not allowed.
        """
        if not self.per_label:
            return table
        rows: list[list[int]] = [[] for _ in range(len(table))]
        for index, name in enumerate(self.per_label):
            require_column(table.column_names, name, "label_column", where)
            for row, value in enumerate(table.with_format(None)[name]):
                if (hot := _ZERO_OR_ONE.get(str(value).strip().lower())) is None:
                    raise DamagedFile(f"{where} row {row}: {value!r} in column {name!r} (allowed: 0 and 1)")
                rows[row] += [index] * hot
        kind: Any = datasets.ClassLabel(names=list(self.per_label))
        if self.multilabel:
            return table.add_column(self.label, rows, feature=datasets.List(kind))
        for row, labels in enumerate(rows):
            if len(labels) != 1:
                names = ", ".join(self.per_label[index] for index in labels) or "none"
                raise BadValue(f"{where} row {row}: {len(labels)} labels ({names}); set `multilabel`=True")
        return table.add_column(self.label, [index for (index,) in rows], feature=kind)


def choose_columns(tables: Mapping[str, datasets.Dataset], where: str, options: ReadOptions) -> Columns:
    """Return the columns that the options name, or that are recognised.

    Raises:
        UserError: There is no such column.
    """
    table = next(iter(tables.values()))
    names = table.column_names
    given = options.split_column
    if given is not None:
        require_column(names, given, "split_column", where)
    split = given or _first(names, SPLIT_COLUMNS)
    image = options.image_column or _recognise("image_column", IMAGE_COLUMNS, names, where)
    if options.label_column is None and _first(names, LABEL_COLUMNS) is None:
        per_label = _zero_one_columns(
            table, [name for name in names if name not in (image, split, options.group_column)]
        )
        if len(per_label) > 1:
            warnings.warn(
                f"{where}: no label column, but {', '.join(per_label)} hold 0 and 1: each is taken for a label",
                stacklevel=3,
            )
            return Columns(image, "labels of columns", split, per_label, options.multilabel)
    label = options.label_column or _recognise("label_column", LABEL_COLUMNS, names, where)
    if label not in names and "," in label:
        listed = tuple(name.strip() for name in label.split(","))
        return Columns(image, "labels of columns", split, listed, options.multilabel)
    return Columns(image, label, split)


def _first(columns: Sequence[str], candidates: Sequence[str]) -> str | None:
    by_name = {name.strip().lower(): name for name in reversed(columns)}
    return next((by_name[name] for name in candidates if name in by_name), None)


def _zero_one_columns(table: datasets.Dataset, names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns, if all of them hold nothing but 0 and 1."""
    kinds = ("string", "large_string", "bool", "float32", "float64")
    flat = [getattr(table.features[name], "dtype", "") for name in names]
    if not all(kind in kinds or str(kind).startswith(("int", "uint")) for kind in flat):
        return ()
    cells = table.select_columns(list(names)).with_format(None)
    holds = all(str(value).strip().lower() in _ZERO_OR_ONE for name in names for value in cells[name])
    return tuple(names) if holds else ()


def _recognise(option: str, candidates: Sequence[str], columns: Sequence[str], where: str) -> str:
    chosen = _first(columns, candidates)
    if chosen is None:
        header = (
            "; is the line with the columns' names missing?" if any(is_image(Path(name)) for name in columns) else ""
        )
        raise DamagedFile(
            f"{where}: none of the columns {', '.join(columns)} is one of {', '.join(candidates)}; choose one with"
            f" `{option}`{header}"
        )
    if others := [name for name in columns if name != chosen and name.strip().lower() in candidates]:
        warnings.warn(
            f"{where}: column {chosen!r} is taken (also there: {', '.join(others)}); choose with `{option}`",
            stacklevel=4,
        )
    return chosen
