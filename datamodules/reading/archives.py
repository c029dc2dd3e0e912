"""The authors' own archives, once extracted: where they lie, and what their files say. Nothing here is executed."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.dataset.layout import Layout
from datamodules.dataset.record import find_in_files
from datamodules.dataset.split import Split
from datamodules.reading.official_files import find_archives, find_wrong_size, name_files
from datamodules.reading.tables import encoded_images
from transfer.errors import DamagedFile, MissingData
from transfer.files import open_regular, read_text
from transfer.images.listing import is_image, list_folder

_MAX_NAMED = 5
# In a process of its own, because scipy's reader can crash on a damaged file; -P keeps it from importing what lies in
# the current folder.
_LOAD_MAT = """
import pickle, sys
from scipy.io.matlab import loadmat
pickle.dump(loadmat(sys.argv[1], squeeze_me=True), sys.stdout.buffer)
"""


def find_archive(data_root: Path, name: str, layout: Layout | None, hub_id: str | None) -> Path:
    """Return the folder of an extracted archive.

    Args:
        data_root: Folder that the user gave.
        name: Name of the dataset.
        layout: What to look for; None if the sheet has none.
        hub_id: Repository on the hub, which the error names as the other possibility; None: there is none.

    Raises:
        UserError: The archive is missing, incomplete or not extracted; the text lists every place.
    """
    text = f"{name}: `data_root`=DIR must hold"
    if hub_id is not None:
        text = f"no folder {data_root / hub_id}: `data_root`=DIR must hold DIR/<hub id>/**/<split>-*.parquet, or"
    if layout is None:
        raise MissingData(text.removesuffix(", or"))
    places = layout.places(data_root, name)
    for place in places:
        if not layout.missing(place):
            return place
    needs = " or ".join(", ".join(files) for files in (layout.needs, layout.alternative) if files)
    text += f" the authors' archive, extracted: a folder with {needs}. Looked for it in "
    text += f"{', '.join(map(str, places))}."
    nearest = min(places, key=lambda place: len(layout.missing(place)))
    if len(layout.missing(nearest)) < len(layout.needs):
        text += f" {nearest} lacks {', '.join(layout.missing(nearest))}."
    archives = find_archives(layout, data_root, name)
    for archive in archives:
        if wrong_size := find_wrong_size(archive, layout.releases(archive.name)):
            text += f" {archive} is not whole ({wrong_size}): download it again."
            continue
        command = "unzip {} -d {}" if archive.suffix == ".zip" else "tar -xf {} -C {}"
        text += f" Extract what is there with: {command.format(archive, archive.parent)}."
    if not archives and any(file.url for file in layout.files):
        text += f" The authors' files: {name_files(layout)}."
    raise MissingData(text)


def _md5(path: Path) -> str:
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def image_split(name: str, folder: Path, files: Sequence[str], labels: Sequence[int]) -> Split:
    """Return a split of image files.

    Args:
        name: What errors call it.
        folder: Folder to which `files` are relative.
        files: Paths in the authors' order.
        labels: Class indices, from 0.

    Raises:
        UserError: Files are missing.
    """
    if missing := missing_files(folder, files):
        raise DamagedFile(
            f"{name}: {len(missing)} of {len(files)} listed images are not in {folder}, such as "
            f"{', '.join(missing[:_MAX_NAMED])}; extract the archive again"
        )
    return build_split(name, [(None, str(folder / file)) for file in files], labels)


def build_split(name: str, images: Sequence[tuple[bytes | None, str]], labels: Sequence[int]) -> Split:
    """Return a split of images given as (encoded bytes, name) or (None, path)."""
    return Split(name, encoded_images(images), np.arange(len(images)), torch.tensor(labels, dtype=torch.int64))


def missing_files(folder: Path, files: Sequence[str]) -> list[str]:
    """Return the files that `folder` lacks; each folder is listed once, which is faster than a look at every file."""
    present: dict[str, set[str]] = {}
    for parent in {file.rpartition("/")[0] for file in files}:
        path = folder / parent
        present[parent] = {entry.name for entry in list_folder(path)} if path.is_dir() else set()
    return [file for file in files if file.rpartition("/")[2] not in present[file.rpartition("/")[0]]]


def find_ignoring_case(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """Return {listed path: path of the image file in `folder`}, whatever the case of its letters.

    A listed path without a file is left out.
    """
    folders = {entry.name.lower(): entry.name for entry in list_folder(folder) if entry.is_dir()}
    present = {
        f"{lower}/{entry.name.lower()}": f"{name}/{entry.name}"
        for lower, name in folders.items()
        for entry in list_folder(folder / name)
        if is_image(Path(entry.name))
    }
    return {file: present[file.lower()] for file in files if file.lower() in present}


def changed_files(folder: Path, files: Mapping[str, str], md5: Mapping[str, str]) -> list[str]:
    """Return the listed paths whose file has another MD5 than the listed one.

    Args:
        folder: Folder to which the files are relative.
        files: File of each listed path.
        md5: MD5 of each listed path.
    """
    found = find_in_files("MD5", [folder / file for file in files.values()], _md5)
    return [path for path, digest in zip(files, found, strict=True) if digest != md5[path]]


def from_one(labels: Sequence[int] | Sequence[str] | NDArray[Any], num_classes: int, where: str) -> list[int]:
    """Return class indices, from 0, for labels that the authors count from 1.

    Raises:
        UserError: A label lies outside 1..`num_classes`.
    """
    try:
        values = np.asarray(labels, dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DamagedFile(f"{where}: its labels are not numbers ({error})") from None
    outside = np.flatnonzero((values < 1) | (values > num_classes))
    if len(outside):
        hint = " (the file counts from 0, the authors' from 1)" if values.min() == 0 else ""
        raise DamagedFile(f"{where} row {outside[0]}: label {values[outside[0]]} is not in 1..{num_classes}{hint}")
    return (values - 1).tolist()


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a text file.

    Raises:
        UserError: The file is not text.
    """
    return [line for line in read_text(path).splitlines() if line.strip()]


def read_columns(path: Path, *names: str) -> list[tuple[str, ...]]:
    """Return columns of a tab-separated table with a header line.

    Raises:
        UserError: A column is missing, or a line is too short.
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


def read_mat(path: Path, *names: str) -> tuple[NDArray[Any], ...]:
    """Return variables of a Matlab file, each flattened.

    Raises:
        UserError: The file is not a Matlab file, or lacks a variable.
    """
    open_regular(path).close()
    read = subprocess.run([sys.executable, "-P", "-c", _LOAD_MAT, path], capture_output=True, check=False)
    if read.returncode != 0:
        reason = (read.stderr.decode(errors="replace").strip().splitlines() or ["the reader crashed"])[-1]
        raise DamagedFile(f"{path}: not a Matlab file that can be read ({reason})")
    content = pickle.loads(read.stdout)
    if absent := [name for name in names if name not in content]:
        found = ", ".join(name for name in content if not name.startswith("__"))
        raise DamagedFile(f"{path}: no variable {absent[0]!r} in it (it has: {found})")
    return tuple(np.atleast_1d(content[name]) for name in names)


def read_field(annotations: NDArray[Any], name: str, path: Path) -> list[Any]:
    """Return one field of a Matlab struct array.

    Raises:
        UserError: There is no such field.
    """
    fields = annotations.dtype.names or ()
    if name not in fields:
        raise DamagedFile(f"{path}: its annotations have no field {name!r} (fields: {', '.join(fields)})")
    return [value.item() if isinstance(value, np.ndarray) else value for value in annotations[name]]
