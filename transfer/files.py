"""A user's files, read with care, and files written whole or not at all.

What is read is a regular file of a bounded size: a pipe would wait for ever, a device has no end.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from transfer.errors import BadValue, DamagedFile, MissingData, printable

# Of a file that is read as text: far more than any of them holds.
TEXT_BYTES = 2**28


def expanded(path: str | Path) -> Path:
    """Return a path from the user with `~` replaced by the home folder; every path argument goes through here.

    Raises:
        BadValue: `~name` names no user, or the path holds a NUL character.
    """
    if "\0" in str(path):
        raise BadValue(f"{str(path)!r}: a path cannot hold a NUL character")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadValue(f"{path}: no user of that name has a home folder here") from None


def default_cache_dir() -> Path:
    """Return `efficientnet-transfer` in the user's cache folder: `XDG_CACHE_HOME`, or else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "efficientnet-transfer"


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file to read its bytes.

    Raises:
        MissingData: there is no such file, or it may not be read.
        DamagedFile: it is a folder, a pipe or a device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would block
    except OSError as error:
        raise MissingData(f"{path}: {os.strerror(error.errno or 0).lower()}") from None
    except ValueError:
        raise MissingData(f"{printable(str(path))}: no file has a NUL in its path") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
        raise DamagedFile(f"{path}: {kind}, where a regular file is needed")
    return os.fdopen(descriptor, "rb")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits.

    Raises:
        MissingData, DamagedFile: see `open_regular`.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: str | Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte-order mark.

    Raises:
        MissingData: see `open_regular`.
        DamagedFile: it is no regular file, too large, or not UTF-8.
    """
    with open_regular(path) as file:
        try:
            content = file.read(TEXT_BYTES + 1)
        except OSError as error:
            raise DamagedFile(f"{path}: {os.strerror(error.errno or 0).lower()}") from None
    if len(content) > TEXT_BYTES:
        raise DamagedFile(f"{path}: larger than {TEXT_BYTES >> 20} MiB, which no such file is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DamagedFile(f"{path} line {line}: not text in UTF-8 (byte 0x{content[error.start]:02x})") from None


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        MissingData, DamagedFile: see `read_text`; or it is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DamagedFile(f"{path} line {error.lineno}: not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or thousands of brackets
        raise DamagedFile(f"{path}: not JSON that can be read: a number too long, or too many levels") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        MissingData, DamagedFile: see `read_json`; or it holds something else than an object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DamagedFile(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file by the names in its first line.

    Raises:
        MissingData, DamagedFile: see `read_text`; or it is not CSV, or a line has not one value for each name.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    rows: list[dict[str, str]] = []
    try:
        header = next(reader, [])
        for values in filter(None, reader):
            if len(values) != len(header):
                raise DamagedFile(f"{path} line {reader.line_num}: {len(values)} values for {len(header)} columns")
            rows.append(dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise DamagedFile(f"{path} line {reader.line_num}: not CSV: {error}") from None
    return rows


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes the place of `path` once it is on the disk; after an error `path` is as it was.

    Raises:
        OSError: the disk is full or refuses the file; it names `path`.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` once its files are on the disk, or vanishes after an error.

    A folder that is there already is removed at the end.

    Raises:
        OSError: the disk is full or refuses a file; it names that or `path`.
    """
    path = path.absolute()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    former = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    try:
        temporary.mkdir()
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        if path.exists():
            path.rename(former)
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


_TEMPORARY = re.compile(r".+\.\d+\.tmp")


def is_leftover(path: Path) -> bool:
    """Return whether a file has the name that `written_whole` gives to one that is not whole yet."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left half written in a folder; no other process may be writing into it."""
    for path in filter(is_leftover, folder.iterdir()):
        path.unlink(missing_ok=True)


def reserve(file: IO[bytes], size: int) -> None:
    """Make a file `size` bytes long, with blocks of the disk behind all of them.

    Without blocks, a disk that fills up kills a process that uses the mapped file. Where system or disk cannot take
    them in advance, the file gets only its length.

    Raises:
        OSError: the disk is too small.
    """
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        file.truncate(size)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where its file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; what UTF-8 has no bytes for becomes an escape."""
    with written_whole(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")
