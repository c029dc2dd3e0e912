"""Label columns become class indices; what is doubtful about them is said, and what is no class is refused."""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import Tensor

from datamodules.dataset.sheet import ReadOptions, name_key
from transfer.errors import BadValue, DamagedFile, nearest
from transfer.images.listing import natural_key

# Texts that mean a missing value as often as a class.
_DOUBTFUL = frozenset({"na", "n/a", "none", "null", "nil", "<na>", "unknown", "?", "-"})
_SEPARATORS = (",", ";", "/", " ")
_MAX_NAMED = 5


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
        See `datamodules.reading.tables.read_splits`.

    Raises:
        UserError: There are lists where one label is expected, a label is missing, or it lies outside the classes.
    """
    columns: dict[str, list[Any]] = {}
    declared: list[str] | None = None
    for split, table in tables.items():
        where = f"{source} {split}"
        feature = table.features[label_column]
        inner = getattr(feature, "feature", feature)
        if inner is not feature and not options.multilabel:
            raise BadValue(f"{where}: column {label_column!r} holds lists of labels; set `multilabel`=True")
        declared = inner.names if isinstance(inner, datasets.ClassLabel) else declared
        columns[where] = list(table.with_format(None)[label_column])
    if declared is None and options.multilabel and (width := _multi_hot_width(columns.values())):
        warnings.warn(
            f"{source}: the lists in {label_column!r} are taken as multi-hot, 1 where the image has the label; the"
            f" classes are called 0 to {width - 1}",
            stacklevel=2,
        )
        declared = [str(index) for index in range(width)]
        columns = {where: [[i for i, hot in enumerate(row) if hot] for row in rows] for where, rows in columns.items()}
    values = {
        where: [_as_labels(value, options, f"{where} row {row}") for row, value in enumerate(rows)]
        for where, rows in columns.items()
    }
    if declared is None and official_names:
        declared = list(official_names)
        values = {where: _match_official(rows, official_names, where) for where, rows in values.items()}
    if declared is None:
        _warn_doubtful(values, source, options)
    if not options.multilabel:
        _refuse_missing(values)
    names = declared if declared is not None else _text_names(values)
    return tuple(names), {
        split: _encode(rows, names, declared is not None, options.multilabel, where)
        for split, (where, rows) in zip(tables, values.items(), strict=True)
    }


def as_text(label: Any) -> str:
    """Return a cell of a table as text without blanks around it; a missing one is empty."""
    return "" if label is None else str(label).strip()


def _multi_hot_width(columns: Iterable[list[Any]]) -> int:
    """Return the number of classes of lists of zeros and ones, or 0 if they are lists of labels."""
    rows = [row for rows in columns for row in rows]
    if not all(isinstance(row, list) for row in rows):
        return 0
    widths = {len(row) for row in rows}
    hot = len(widths) == 1 and all(
        type(value) in (bool, int, float) and value in (0, 1) for row in rows for value in row
    )
    width = widths.pop() if hot else 0
    return width if width > 1 else 0


def _as_labels(value: Any, options: ReadOptions, where: str) -> list[Any]:
    if options.multilabel and isinstance(value, str):
        value = [part for part in value.split(options.label_separator) if part.strip()]
    if options.multilabel and value is None:
        return []
    return [_as_label(label, where) for label in (value if options.multilabel and isinstance(value, list) else [value])]


def _as_label(label: Any, where: str) -> Any:
    """Return a label as text, as an integer, or None where it is missing."""
    if isinstance(label, bytes):
        try:
            label = label.decode()
        except UnicodeDecodeError:
            raise DamagedFile(f"{where}: label {label[:20]!r} is not text in UTF-8") from None
    if isinstance(label, str) and label.strip().lower() == "nan":
        return None
    if isinstance(label, float):
        if math.isnan(label):
            return None
        if not label.is_integer():
            raise DamagedFile(f"{where}: label {label!r} is a fraction, not a class")
        return int(label)
    if isinstance(label, dict | list):
        raise DamagedFile(f"{where}: label {str(label)[:40]} is a {type(label).__name__}, not a class")
    return label


def _refuse_missing(values: Mapping[str, list[list[Any]]]) -> None:
    for where, rows in values.items():
        missing = [row for row, labels in enumerate(rows) if labels and not as_text(labels[0])]
        if missing:
            raise DamagedFile(
                f"{where} row {missing[0]}: no label ({len(missing)} of {len(rows)} rows have none, or nan); fill it in"
                " or remove these rows, or set `multilabel`=True if images may have none or several"
            )


def _warn_doubtful(values: Mapping[str, list[list[Any]]], source: str, options: ReadOptions) -> None:
    """Say what was understood where text labels may mean something else."""
    raw = Counter(str(label) for rows in values.values() for labels in rows for label in labels if label is not None)
    counts: Counter[str] = Counter()
    for label, count in raw.items():
        counts[label.strip()] += count
    doubts = []
    for same in _groups(raw, str.strip):
        doubts.append(f"labels {same} differ only in blanks and are one class")
    for alike in _groups(counts, lambda name: name_key(unicodedata.normalize("NFC", name))):
        doubts.append(f"{alike} differ only in case, blanks or accents' encoding and are different classes")
    for name in counts:
        if name.lower() in _DOUBTFUL:
            doubts.append(f"label {name!r} is taken for a class, of {counts[name]} images")
    separators = (options.label_separator, *_SEPARATORS)
    for name in counts:
        separator = next((mark for mark in separators if _is_joined(name, mark, counts, options)), None)
        if separator is not None:
            settings = [] if options.multilabel else ["`multilabel`=True"]
            settings += [f"`label_separator`={separator!r}"] if separator != options.label_separator else []
            doubts.append(f"label {name!r} is taken for one class; if it names several, set {' and '.join(settings)}")
            break
    for doubt in doubts[:_MAX_NAMED]:
        warnings.warn(f"{source}: {doubt}", stacklevel=3)


def _is_joined(name: str, separator: str, names: Mapping[str, int], options: ReadOptions) -> bool:
    """Return whether a label looks like several: its parts are labels too, or it holds the separator of the options."""
    parts = [part.strip() for part in name.split(separator)] if separator else [name]
    return len(parts) > 1 and (separator == options.label_separator or all(part in names for part in parts))


def _groups(names: Iterable[str], key: Any) -> list[str]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return [", ".join(map(repr, group)) for group in found.values() if len(group) > 1]


def _text_names(values: Mapping[str, list[list[Any]]]) -> list[str]:
    found = {as_text(label) for rows in values.values() for labels in rows for label in labels}
    return sorted(found - {""}, key=natural_key)


def _match_official(rows: list[list[Any]], names: Sequence[str], where: str) -> list[list[Any]]:
    """Return text labels as official names; numbers stay, as indices."""
    official = {name_key(name): name for name in names}
    for row, labels in enumerate(rows):
        for label in labels:
            if not isinstance(label, int) and name_key(as_text(label)) not in official:
                raise DamagedFile(
                    f"{where} row {row}: label {label!r} is no official class name"
                    f"{nearest(as_text(label), names)} (they run from {names[0]!r} to {names[-1]!r})"
                )
    return [
        [label if isinstance(label, int) else official[name_key(as_text(label))] for label in labels] for labels in rows
    ]


def _encode(rows: list[list[Any]], names: list[str], are_indices: bool, multilabel: bool, where: str) -> Tensor:
    lookup: dict[Any, int] = {name: index for index, name in enumerate(names)}
    if are_indices:
        lookup |= {index: index for index in range(len(names))}
    encoded = torch.zeros(len(rows), len(names)) if multilabel else torch.zeros(len(rows), dtype=torch.int64)
    for row, labels in enumerate(rows):
        for label in labels:
            index = lookup.get(label if are_indices else as_text(label))
            if index is None:
                allowed = f"0..{len(names) - 1} or a class name" if are_indices else "any non-empty text"
                raise DamagedFile(f"{where} row {row}: label {label!r} is not allowed (allowed: {allowed})")
            if multilabel:
                encoded[row, index] = 1
            else:
                encoded[row] = index
    return encoded
