"""The picture files of a folder in natural order, and the other files that lie there."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from transfer.errors import DamagedFile, MissingData
from transfer.images.decode import PICTURE_SUFFIXES

_IGNORED_FOLDERS = frozenset({"__MACOSX"})


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key that reads digits as numbers, so that `2` comes before `10`; the text itself breaks ties."""
    parts = re.split(r"([0-9]+)", text.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], text


def is_visible(name: str) -> bool:
    """Return whether a folder of this name is searched."""
    return not name.startswith(".") and name not in _IGNORED_FOLDERS


def walk_files(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield every file under `folder`, natural-sorted per folder, following links and leaving hidden names out.

    Args:
        folder: where to start.
        above: real paths of the folders that led here: a link to one of them would lead round in circles.

    Raises:
        MissingData: a folder cannot be listed.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    folders = []
    for entry in list_folder(folder):
        if entry.is_dir():
            folders.append(entry.name)
        elif not entry.name.startswith("."):
            yield Path(entry.path)
    for name in filter(is_visible, folders):
        yield from walk_files(folder / name, above | {real})


def list_folder(folder: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, natural-sorted.

    Raises:
        MissingData: it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: natural_key(entry.name))
    except OSError as error:
        raise MissingData(
            f"{folder}: this folder cannot be listed ({(error.strerror or str(error)).lower()})"
        ) from None


def is_image(path: Path) -> bool:
    """Return whether the file name ends like an image's, in upper or lower case.

    Raises:
        DamagedFile: it does, but is not text in UTF-8, which tables and reports are written in.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        return False
    try:
        str(path).encode()
    except UnicodeEncodeError:
        readable = os.fsencode(path).decode(errors="backslashreplace")
        raise DamagedFile(
            f"{readable}: this name is not in UTF-8; rename it, such as by convmv -r -f latin1 -t utf8 --notest DIR"
        ) from None
    return True


def describe_left_out(files: Iterable[Path]) -> str:
    """Return `3 files that are not pictures of a format that is read (2 .heic, 1 .txt)`."""
    suffixes = Counter(path.suffix.lower() or path.name for path in files)
    total = sum(suffixes.values())
    found = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())
    return f"{total} file{'s' * (total > 1)} that {'are not pictures' if total > 1 else 'is no picture'}" + (
        f" of a format that is read ({found})"
    )


def list_images(path: Path) -> list[Path]:
    """Return the image files at `path`: itself if it is a file, otherwise all those below it, natural-sorted.

    Files that are left out are counted in a warning.

    Raises:
        MissingData: there is nothing at `path`, a folder cannot be listed, or there is only a folder without images.
    """
    if path.exists() and not path.is_dir():
        return [path]
    if not path.is_dir():
        raise MissingData(f"no such file or folder: {path}")
    images: list[Path] = []
    others: list[Path] = []
    for file in walk_files(path):
        (images if is_image(file) else others).append(file)
    left_out = describe_left_out(others) if others else ""
    if not images:
        raise MissingData(
            f"no image in {path} or below it{left_out and f', but {left_out}'}; image files end in"
            f" {', '.join(sorted(PICTURE_SUFFIXES))}"
        )
    if left_out:
        warnings.warn(f"{path}: left out {left_out}", stacklevel=2)
    return images
