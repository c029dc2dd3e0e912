"""The user's own tables as they lie on the disk: CSV as programs write it, parquet, and what `save_to_disk` wrote."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import datasets
import pyarrow.parquet as pq

from transfer.errors import BadValue, DamagedFile
from transfer.files import TEXT_BYTES, open_regular
from transfer.images.listing import walk_files

T = TypeVar("T")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
_SEPARATORS = (",", ";", "\t")
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_PARQUET = b"PAR1"
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f]")
# What is found in place of a table, by its first bytes.
_FOREIGN = {
    _PARQUET: "a parquet file: name it .parquet",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with `git lfs pull`",
    b"PK\x03\x04": "a zip archive or an Excel workbook: extract it, or save it as CSV",
    b"<": "a page of HTML or XML: download the file itself",
}


def open_table(file: Path) -> datasets.Dataset:
    """Return the table in a CSV or parquet file; CSV has text in every column.

    Raises:
        UserError: It is no such file, or damaged.
    """
    suffix = file.suffix.lower()
    if suffix in TEXT_SUFFIXES:
        return _read_csv(file)
    if suffix != ".parquet":
        raise BadValue(f"{file}: a table must be a {', '.join(TEXT_SUFFIXES)} or .parquet file")
    check_parquet(file)
    if _guarded(lambda: pq.read_metadata(file).num_rows, file) == 0:
        raise DamagedFile(f"{file}: a table without rows")
    table = _guarded(lambda: datasets.Dataset.from_parquet(str(file)), file)
    assert isinstance(table, datasets.Dataset)
    _validate(table, file)
    return table


def check_parquet(file: Path) -> None:
    """Check that a file begins and ends as parquet does.

    Raises:
        UserError: It does not, or is no regular file.
    """
    with open_regular(file) as stream:
        head = stream.read(64)
        tail = stream.seek(max(stream.seek(0, 2) - 4, 0)) and stream.read()
    if not head.startswith(_PARQUET):
        raise DamagedFile(f"{file}: no parquet file, but {_describe(head)}")
    if tail != _PARQUET:
        raise DamagedFile(f"{file}: a parquet file without its end; write or download it again")


def open_saved(folder: Path) -> datasets.Dataset | datasets.DatasetDict:
    """Return what `save_to_disk` wrote to a folder.

    Raises:
        UserError: A part is missing or damaged.
    """
    files = list(walk_files(folder))
    if not any(file.suffix == ".arrow" for file in files):
        raise DamagedFile(f"{folder}: a table without rows, or without its .arrow files")
    for file in files:
        if not file.is_file():
            raise DamagedFile(f"{file}: not a regular file")
        if file.suffix in (".arrow", ".json"):
            with open_regular(file) as stream:
                head = stream.read(64)
            if not head or any(head.startswith(mark) for mark in _FOREIGN):
                raise DamagedFile(f"{file}: not what `save_to_disk` wrote, but {_describe(head)}")
    found = _guarded(lambda: datasets.load_from_disk(str(folder)), folder)
    tables = found if isinstance(found, datasets.DatasetDict) else {"": found}
    for name, table in tables.items():
        if len(table) == 0:
            raise DamagedFile(f"{folder} {name}".rstrip() + ": a table without rows")
        _validate(table, folder)
    return found


def _validate(table: datasets.Dataset, path: Path) -> None:
    _guarded(lambda: table.data.validate(full=True), path)


def _guarded(read: Callable[[], T], path: Path) -> T:
    """Turn whatever the libraries raise on a damaged file into one line."""
    try:
        return read()
    except Exception as error:  # ArrowInvalid, JSON's, KeyError, TypeError, ...: they check little of what they read
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
            raise  # a full disk, say
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        if isinstance(cause, OSError) and cause.errno is not None:
            raise cause from None
        reason = " ".join(str(cause or error).split())[:200] or type(error).__name__
        raise DamagedFile(f"{path}: damaged, or written by another program ({reason}); write it again") from error


def _describe(head: bytes) -> str:
    if not head:
        return "empty (0 bytes)"
    return next(
        (kind for mark, kind in _FOREIGN.items() if head.lstrip().startswith(mark)), f"a file of {head[:8]!r}..."
    )


def _read_csv(file: Path) -> datasets.Dataset:
    with open_regular(file) as stream:
        content = stream.read(TEXT_BYTES + 1)
    if len(content) > TEXT_BYTES:
        raise DamagedFile(f"{file}: larger than {TEXT_BYTES >> 20} MiB; save it as parquet")
    text = _decode(content, file)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for values in reader:
            if any(value.strip() for value in values):
                lines.append((reader.line_num, values))
    except csv.Error as error:
        raise DamagedFile(f"{file} line {reader.line_num}: not CSV: {error}") from None
    header = [name.strip() or f"column {number}" for number, name in enumerate(lines[0][1], 1)]
    if twice := [name for name in header if header.count(name) > 1]:
        raise DamagedFile(f"{file}: two columns are called {twice[0]!r}; rename or remove one")
    for number, values in lines[1:]:
        if len(values) != len(header):
            raise DamagedFile(f"{file} line {number}: {len(values)} values for {len(header)} columns")
    if len(lines) == 1:
        raise DamagedFile(f"{file}: a table without rows")
    columns = zip(*(values for _, values in lines[1:]), strict=True)
    types = datasets.Features(dict.fromkeys(header, datasets.Value("string")))
    return datasets.Dataset.from_dict({name: list(column) for name, column in zip(header, columns, strict=True)}, types)


def _separator(text: str) -> str:
    """Return the separator that gives the header the most columns."""
    header = next(line for line in text.splitlines() if line.strip())
    return max(_SEPARATORS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))


def _decode(content: bytes, file: Path) -> str:
    """Return the text of a file in UTF-8 or UTF-16, or, with a warning, in Windows' western encoding."""
    if not content.strip() or any(content.lstrip().startswith(mark) for mark in _FOREIGN):
        raise DamagedFile(f"{file}: no table, but {_describe(content[:64].strip())}")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:2]:
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        text = content.decode("cp1252" if encoding == "utf-8" else encoding, errors="replace")
        if "\ufffd" in text or _CONTROL.search(text):
            raise DamagedFile(f"{file}: no table, but a binary file of {content[:8]!r}...") from None
        line = content.count(b"\n", 0, error.start)
        warnings.warn(
            f"{file}: not UTF-8, and read as Windows' cp1252 (line {line + 1}: {text.split(chr(10))[line].strip()!r});"
            " save it as UTF-8 if that is wrong",
            stacklevel=4,
        )
    if _CONTROL.search(text) or not text.strip("\ufeff \t\r\n"):
        raise DamagedFile(f"{file}: no table, but a binary file of {content[:8]!r}...")
    return text
