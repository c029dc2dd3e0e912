"""One split of a dataset in memory: encoded images that stay on disk until asked for, and their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transfer.files import open_regular
from transfer.images.decode import (
    BadImage,
    BadImageError,
    decode_image,
    eight_bit_pixels,
    image_shape,
    measure_image,
)
from transfer.images.depth import DEFAULT_DECODING, Decoding, Extent
from transfer.progress import track

# Up to this size, in bytes, images without losses are told apart by their pixels: a source may store the 32x32 pixels
# of an image raw, another as PNG. Larger ones are the authors' own files in every source.
_SMALL = 2**14
_JPEG = b"\xff\xd8"
_DIGEST_BYTES = 16
_ID_BYTES = 8


class RemoteTable(Protocol):
    """A table whose rows are fetched one by one, as in `datamodules.reading.streaming`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return {"image": {bytes, path}}."""

    def identity(self, row: int) -> bytes:
        """Return what tells a row from others without fetching it."""

    def followed_by(self, other: Any) -> RemoteTable:
        """Return both tables in one."""


@dataclass(frozen=True)
class Split:
    """Encoded images with their labels.

    Args:
        name: What errors call it, such as `uoft-cs/cifar10 train`.
        table: Every row of the source; column `image` is an undecoded Image feature ({bytes, path}).
        rows: Which rows of the table belong to the split, in order. Shape: (N,)
        labels: Class indices, int64 (N,), or multi-hot float32 (N, C).
        groups: What each image shares with others that must not lie in another split, such as a patient; None:
            nothing. Shape: (N,)
        decoding: How its images become 8-bit pixels.
        is_checked: Whether all its images have been decoded without damage.
    """

    name: str
    table: datasets.Dataset | RemoteTable
    rows: NDArray[np.int64]
    labels: Tensor
    groups: NDArray[np.str_] | None = None
    decoding: Decoding = DEFAULT_DECODING
    is_checked: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Split:
        """Return the split of these positions only, in this order; image names keep their original row."""
        chosen = np.asarray(indices, dtype=np.int64)
        groups = None if self.groups is None else self.groups[chosen]
        part = replace(self, rows=self.rows[chosen], labels=self.labels[torch.from_numpy(chosen)], groups=groups)
        if "_digests" in vars(self):
            vars(part)["_digests"] = self._digests[chosen]
        return part

    def encoded(self, index: int) -> bytes | Path:
        """Return the bytes of an image file, or its path."""
        image = self.table[int(self.rows[index])]["image"] or {"bytes": None, "path": None}
        if image["bytes"] is None and image["path"]:
            return Path(image["path"])
        return image["bytes"] or b""

    def shape(self, index: int) -> tuple[int, int]:
        """Return the picture's (height, width) in pixels, from the file's header.

        Raises:
            BadImageError: The file is not an image; the text names it.
        """
        try:
            return image_shape(self.encoded(index), self.decoding.max_pixels)
        except BadImageError as error:
            raise BadImageError(f"{self.image_name(index)}: {error}") from None

    def image_name(self, index: int) -> str:
        """Return the file's path, or `<dataset> <split> row <number> (<path>)` for an image inside a table."""
        row = int(self.rows[index])
        image = self.table[row]["image"] or {"bytes": None, "path": None}
        if image["bytes"] is None and image["path"]:
            return str(image["path"])
        return f"{self.name} row {row}" + (f" ({image['path']})" if image["path"] else "")

    def image_names(self) -> list[str]:
        """Return `image_name` of every image; of a streamed one only its row, as its path would have to be fetched."""
        if isinstance(self.table, datasets.Dataset):
            return [self.image_name(index) for index in range(len(self))]
        return [f"{self.name} row {row}" for row in self.rows]

    def file_names(self) -> list[str]:
        """Return the name of each image's file, without its folder; empty where the source keeps none."""
        if not isinstance(self.table, datasets.Dataset):
            return [""] * len(self)
        return [Path(self.table[int(row)]["image"]["path"] or "").name for row in self.rows]

    def sources(self) -> list[int] | list[str]:
        """Return where the images are in the source: rows of its table, or paths if the table holds only paths."""
        rows: list[int] = self.rows.tolist()
        if (
            not isinstance(self.table, datasets.Dataset)
            or not rows
            or self.table[rows[0]]["image"]["bytes"] is not None
        ):
            return rows
        return [str(self.table[row]["image"]["path"]) for row in rows]

    def check(self, index: int) -> BadImage | None:
        """Return what is wrong with an image, or None if it decodes."""
        try:
            decode_image(self.encoded(index), self.decoding)
        except BadImageError as error:
            return BadImage(self.image_name(index), str(error))
        return None

    def measure(self, index: int) -> BadImage | Extent | None:
        """Return what is wrong with an image, or the extent of its values if it has more than 8 bits."""
        try:
            return measure_image(self.encoded(index), self.decoding)
        except BadImageError as error:
            return BadImage(self.image_name(index), str(error))

    def class_counts(self, num_classes: int) -> list[int]:
        """Return the images per class, in class order; an image with several labels counts once for each."""
        if self.labels.ndim == 2:
            return [int(count) for count in self.labels.sum(dim=0)]
        return torch.bincount(self.labels, minlength=num_classes).tolist()

    def fingerprint(self) -> str:
        """Return a 128-bit hex digest of the images' bytes and labels that does not depend on their order.

        Each (label, bytes) is hashed by BLAKE2b and the digests are summed modulo 2^128. For streamed images the
        footers of their files are hashed instead; such a digest starts with `streamed-` and equals no other.
        """
        total = sum(int.from_bytes(digest.tobytes(), "big") for digest in self._digests[:, :_DIGEST_BYTES])
        return f"{'' if isinstance(self.table, datasets.Dataset) else 'streamed-'}{total % 2**128:032x}"

    def ordered_fingerprint(self) -> str:
        """Return a 128-bit hex digest that also depends on the order, for files with one row per image."""
        parts = self._digests[:, :_DIGEST_BYTES].tobytes()
        return hashlib.blake2b(parts, digest_size=16).hexdigest()

    def ids(self) -> NDArray[np.uint64]:
        """Return 64 bits of each image's content, whatever its name, row and label: equal for equal images.

        They hash the file, or the pixels of a small picture without losses; of a streamed image, its place. Shape: (N,)
        """
        return np.ascontiguousarray(self._digests[:, _DIGEST_BYTES:]).view(">u8").ravel().astype(np.uint64)

    @cached_property
    def _digests(self) -> NDArray[np.uint8]:
        """For each image, a digest of its label and bytes, and its id. Shape: (N, 24)"""
        found = np.zeros((len(self), _DIGEST_BYTES + _ID_BYTES), np.uint8)
        labels = self.labels.numpy()
        for index in track(range(len(self)), f"hashing {self.name}"):
            content = self._content(index)
            digest = hashlib.blake2b(labels[index].tobytes(), digest_size=_DIGEST_BYTES)
            digest.update(content)
            identity = hashlib.blake2b(_identity(content), digest_size=_ID_BYTES)
            found[index] = np.frombuffer(digest.digest() + identity.digest(), np.uint8)
        return found

    def _content(self, index: int) -> bytes:
        if not isinstance(self.table, datasets.Dataset):
            return self.table.identity(int(self.rows[index]))
        encoded = self.encoded(index)
        if isinstance(encoded, bytes):
            return encoded
        with open_regular(encoded) as file:
            return file.read()


def _identity(content: bytes) -> bytes:
    if len(content) > _SMALL or content.startswith(_JPEG):
        return content
    try:
        pixels = eight_bit_pixels(content)
    except BadImageError:
        return content
    if pixels is None:  # of a deep image, other values may become equal pixels
        return content
    return f"{pixels.shape} ".encode() + pixels.tobytes()


def join(first: Split, second: Split, name: str) -> Split:
    """Return all images of both splits: in the order of their table if they share it, else the first's come first."""
    labels = torch.cat([first.labels, second.labels])
    is_checked = first.is_checked and second.is_checked
    groups = None
    if first.groups is not None and second.groups is not None:
        groups = np.concatenate([first.groups, second.groups])
    table: datasets.Dataset | RemoteTable
    if first.table is second.table:
        table, offset = first.table, 0
    elif isinstance(first.table, datasets.Dataset):
        table, offset = datasets.concatenate_datasets([first.table, second.table]), len(first.table)
    else:
        table, offset = first.table.followed_by(second.table), len(first.table)
    rows = np.concatenate([first.rows, second.rows + offset])
    joined = Split(name, table, rows, labels, groups, first.decoding, is_checked)
    if "_digests" in vars(first) and "_digests" in vars(second):
        vars(joined)["_digests"] = np.concatenate([first._digests, second._digests])
    return joined.select(np.argsort(rows)) if first.table is second.table else joined
