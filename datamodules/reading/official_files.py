"""Whether files are the authors' own: their sizes and digests beside the published ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datamodules.dataset.layout import Layout, OfficialFile
from transfer.errors import DamagedFile
from transfer.files import open_regular
from transfer.progress import track

_BLOCK = 2**22  # bytes read at once


def check_official_files(folder: Path, layout: Layout) -> None:
    """Compare the files that lie beside the images with the published digests; archives are left to `doctor`.

    Raises:
        UserError: A file has other content.
    """
    for name in dict.fromkeys(file.name for file in layout.files if not file.is_archive):
        if (folder / name).exists() and (difference := find_difference(folder / name, layout.releases(name))):
            raise DamagedFile(f"{folder / name}: {difference}; not the authors' file. Download it again")


def find_archives(layout: Layout, data_root: Path, name: str) -> list[Path]:
    """Return the authors' archives that lie in one of the folders where they are looked for."""
    places = layout.places(data_root, name)
    return [place / archive for archive in layout.archives for place in places if (place / archive).is_file()]


def name_files(layout: Layout | None) -> str:
    """Return the authors' files, each with its address where that is known."""
    files = {file.name: file.url for file in reversed(layout.files)} if layout else {}
    return ", ".join(f"{name} ({url})" if url else name for name, url in reversed(files.items()))


def find_wrong_size(path: Path, releases: Sequence[OfficialFile]) -> str | None:
    """Return how a file's size differs from the published ones, or None; where one has no size, any is right.

    Raises:
        UserError: It is no regular file.
    """
    sizes = [release.num_bytes for release in releases]
    with open_regular(path) as stream:
        found = os.fstat(stream.fileno()).st_size
    if not sizes or None in sizes or found in sizes:
        return None
    return f"{' or '.join(f'{size:,}' for size in sizes)} bytes expected, {found:,} found"


def find_difference(path: Path, releases: Sequence[OfficialFile]) -> str | None:
    """Return how a file differs from every published release, or None if it is one of them or none has a digest.

    Raises:
        UserError: It is no regular file.
    """
    if (wrong_size := find_wrong_size(path, releases)) is not None:
        return wrong_size
    for title, digests in (
        ("SHA-256", [release.sha256 for release in releases if release.sha256]),
        ("MD5", [release.md5 for release in releases if release.md5]),
    ):
        if digests:
            found = _digest(path, title.replace("-", "").lower())
            return None if found in digests else f"{title} {' or '.join(digests)} expected, {found} found"
    return None


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with open_regular(path) as stream:
        blocks = -(-os.fstat(stream.fileno()).st_size // _BLOCK)
        for block in track(iter(partial(stream.read, _BLOCK), b""), f"hashing {path.name}", blocks):
            digest.update(block)
    return digest.hexdigest()
