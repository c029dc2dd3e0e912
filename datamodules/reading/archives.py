"""The authors' own archives, once extracted: where they lie, and what their files say. Nothing here is executed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from datamodules.dataset.sheet import Layout
from datamodules.dataset.split import Split
from datamodules.images.decode import is_image
from datamodules.reading.tables import encoded_images
from transfer.errors import DamagedFile, MissingData

_MAX_NAMED = 5


def find_archive(data_root: Path, name: str, layout: Layout | None, hub_id: str) -> Path:
    """The folder of an extracted archive.

    Args:
        data_root: what the user gave.
        name: of the dataset.
        layout: what to look for; None if the sheet has none.
        hub_id: named in the error as the other possibility.

    Raises:
        UserError: not there, not complete or not extracted; the text lists every place.
    """
    text = f"no folder {data_root / hub_id}: `data_root`=DIR must hold DIR/<hub id>/**/<split>-*.parquet"
    if layout is None:
        raise MissingData(text)
    places = layout.places(data_root, name)
    for place in places:
        if not layout.missing(place):
            return place
    needs = " or ".join(", ".join(files) for files in (layout.needs, layout.alternative) if files)
    text += f", or the authors' archive, extracted: a folder with {needs}. Looked for it in "
    text += f"{', '.join(map(str, places))}."
    nearest = min(places, key=lambda place: len(layout.missing(place)))
    if len(layout.missing(nearest)) < len(layout.needs):
        text += f" {nearest} lacks {', '.join(layout.missing(nearest))}."
    for base in dict.fromkeys(place for place in places if place.is_dir()):
        for archive in layout.archives:
            if (base / archive).is_file():
                command = f"unzip {base / archive} -d {base}" if archive.endswith(".zip") else None
                text += f" Extract what is there with: {command or f'tar -xf {base / archive} -C {base}'}."
    raise MissingData(text)


def check_md5(folder: Path, expected: Mapping[str, str]) -> None:
    """Compares files with the authors' checksums.

    Raises:
        UserError: a file has another content.
    """
    for name, md5 in expected.items():
        found = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
        if found != md5:
            raise DamagedFile(
                f"{folder / name}: MD5 {md5} expected, {found} found; not the authors' file. Download it again"
            )


def image_split(name: str, folder: Path, files: Sequence[str], labels: Sequence[int]) -> Split:
    """A split of image files.

    Args:
        name: how errors call it.
        folder: that `files` are relative to.
        files: in the authors' order.
        labels: class indices from 0.

    Raises:
        UserError: files that are not there.
    """
    if missing := missing_files(folder, files):
        raise DamagedFile(
            f"{name}: {len(missing)} of {len(files)} listed images are not in {folder}, such as "
            f"{', '.join(missing[:_MAX_NAMED])}; extract the archive again"
        )
    return build_split(name, [(None, str(folder / file)) for file in files], labels)


def build_split(name: str, images: Sequence[tuple[bytes | None, str]], labels: Sequence[int]) -> Split:
    """A split of (encoded bytes, name) or (None, path)."""
    return Split(name, encoded_images(images), np.arange(len(images)), torch.tensor(labels, dtype=torch.int64))


def missing_files(folder: Path, files: Sequence[str]) -> list[str]:
    """Those of the files that `folder` does not have; each folder is listed once, in place of a look at every file."""
    present: dict[str, set[str]] = {}
    for parent in {file.rpartition("/")[0] for file in files}:
        path = folder / parent
        present[parent] = {entry.name for entry in os.scandir(path)} if path.is_dir() else set()
    return [file for file in files if file.rpartition("/")[2] not in present[file.rpartition("/")[0]]]


def find_ignoring_case(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """Listed path -> path of the image file that `folder` has for it, whatever the case of its letters.

    A listed path without a file is left out.
    """
    folders = {entry.name.lower(): entry.name for entry in os.scandir(folder) if entry.is_dir()}
    present = {
        f"{lower}/{entry.name.lower()}": f"{name}/{entry.name}"
        for lower, name in folders.items()
        for entry in os.scandir(folder / name)
        if is_image(Path(entry.name))
    }
    return {file: present[file.lower()] for file in files if file.lower() in present}


def changed_files(folder: Path, files: Mapping[str, str], md5: Mapping[str, str]) -> list[str]:
    """Those of the listed paths whose file has another MD5 than the listed one.

    Args:
        folder: that the files are relative to.
        files: listed path -> file.
        md5: of each listed path.
    """

    def digest(file: str) -> str:
        with (folder / file).open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

    with ThreadPoolExecutor() as pool:
        found = zip(files, pool.map(digest, files.values()), strict=True)
        return [path for path, digest_ in tqdm(found, total=len(files), desc="MD5", delay=3) if digest_ != md5[path]]


def from_one(labels: Sequence[int] | NDArray[Any], num_classes: int, where: str) -> list[int]:
    """Class indices from 0 for labels that the authors count from 1.

    Raises:
        UserError: a label outside 1..`num_classes`.
    """
    values = np.asarray(labels, dtype=np.int64)
    outside = np.flatnonzero((values < 1) | (values > num_classes))
    if len(outside):
        hint = " (the file counts from 0, the authors' from 1)" if values.min() == 0 else ""
        raise DamagedFile(f"{where} row {outside[0]}: label {values[outside[0]]} is not in 1..{num_classes}{hint}")
    return (values - 1).tolist()


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without empty ones.

    Raises:
        UserError: not readable as text.
    """
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path}: not a text file ({error.reason})") from None


def read_columns(path: Path, *names: str) -> list[tuple[str, ...]]:
    """Columns of a tab-separated table with a header line.

    Raises:
        UserError: no such column, or a short line.
    """
    header, *lines = read_lines(path) or [""]
    columns = [column.strip() for column in header.split("\t")]
    if absent := [name for name in names if name not in columns]:
        raise DamagedFile(f"{path}: no column {absent[0]!r} in its first line (columns: {', '.join(columns)})")
    positions = [columns.index(name) for name in names]
    rows = []
    for number, line in enumerate(lines, 2):
        values = line.split("\t")
        if len(values) <= max(positions):
            raise DamagedFile(f"{path} line {number}: {len(values)} values, {len(columns)} expected")
        rows.append(tuple(values[position].strip() for position in positions))
    return rows


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFile(f"{path}: not a JSON file ({error})") from None


def read_mat(path: Path, *names: str) -> tuple[NDArray[Any], ...]:
    """Variables of a Matlab file, each flat.

    Raises:
        UserError: not a Matlab file, or a variable is not in it.
    """
    try:
        content = scipy.io.loadmat(str(path), squeeze_me=True)
    except Exception as error:  # scipy's readers raise ValueError, TypeError, NotImplementedError, zlib.error, ...
        raise DamagedFile(f"{path}: not a Matlab file that can be read ({error})") from error
    if absent := [name for name in names if name not in content]:
        found = ", ".join(name for name in content if not name.startswith("__"))
        raise DamagedFile(f"{path}: no variable {absent[0]!r} in it (it has: {found})")
    return tuple(np.atleast_1d(content[name]) for name in names)


def read_field(annotations: NDArray[Any], name: str, path: Path) -> list[Any]:
    """One field of a Matlab struct array.

    Raises:
        UserError: no such field.
    """
    fields = annotations.dtype.names or ()
    if name not in fields:
        raise DamagedFile(f"{path}: its annotations have no field {name!r} (fields: {', '.join(fields)})")
    return [value.item() if isinstance(value, np.ndarray) else value for value in annotations[name]]
