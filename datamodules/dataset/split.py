"""One split of a dataset in memory: encoded images that stay on disk until asked for, and their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.images.decode import BadImage, BadImageError, decode_image, image_shape
from transfer.errors import UserError

# The held-out images are the same for every run seed, so that runs that differ in seed are selected on the same data.
_HOLDOUT_SEED = 0


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
    """

    name: str
    table: datasets.Dataset | RemoteTable
    rows: NDArray[np.int64]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Split:
        """Return the split of these positions only, in this order; image names keep their original row."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(self, rows=self.rows[chosen], labels=self.labels[torch.from_numpy(chosen)])

    def encoded(self, index: int) -> bytes | Path:
        """Return the bytes of an image file, or its path."""
        image = self.table[int(self.rows[index])]["image"]
        return image["bytes"] if image["bytes"] is not None else Path(image["path"] or "")

    def shape(self, index: int) -> tuple[int, int]:
        """Return the picture's (height, width) in pixels, from the file's header.

        Raises:
            BadImageError: The file is not an image; the text names it.
        """
        try:
            return image_shape(self.encoded(index))
        except BadImageError as error:
            raise BadImageError(f"{self.image_name(index)}: {error}") from None

    def image_name(self, index: int) -> str:
        """Return the file's path, or `<dataset> <split> row <number> (<path>)` for an image inside a table."""
        row = int(self.rows[index])
        image = self.table[row]["image"]
        if image["bytes"] is None:
            return str(image["path"])
        return f"{self.name} row {row}" + (f" ({image['path']})" if image["path"] else "")

    def image_names(self) -> list[str]:
        """Return `image_name` of every image; of a streamed one only its row, as its path would have to be fetched."""
        if isinstance(self.table, datasets.Dataset):
            return [self.image_name(index) for index in range(len(self))]
        return [f"{self.name} row {row}" for row in self.rows]

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
            decode_image(self.encoded(index))
        except BadImageError as error:
            return BadImage(self.image_name(index), str(error))
        return None

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
        total = sum(int.from_bytes(digest, "big") for digest in self._digests())
        return f"{'' if isinstance(self.table, datasets.Dataset) else 'streamed-'}{total % 2**128:032x}"

    def ordered_fingerprint(self) -> str:
        """Return a 128-bit hex digest that also depends on the order, for files with one row per image."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self._digests():
            digest.update(part)
        return digest.hexdigest()

    def _digests(self) -> Iterator[bytes]:
        for index, label in enumerate(self.labels.numpy()):
            digest = hashlib.blake2b(label.tobytes(), digest_size=16)
            digest.update(self._content(index))
            yield digest.digest()

    def _content(self, index: int) -> bytes:
        if not isinstance(self.table, datasets.Dataset):
            return self.table.identity(int(self.rows[index]))
        encoded = self.encoded(index)
        return encoded if isinstance(encoded, bytes) else encoded.read_bytes()


def join(first: Split, second: Split, name: str) -> Split:
    """Return all images of both splits: in the order of their table if they share it, else the first's come first."""
    labels = torch.cat([first.labels, second.labels])
    if first.table is second.table:
        joined = Split(name, first.table, np.concatenate([first.rows, second.rows]), labels)
        return joined.select(np.argsort(joined.rows))
    if isinstance(first.table, datasets.Dataset):
        table: datasets.Dataset | RemoteTable = datasets.concatenate_datasets([first.table, second.table])
    else:
        table = first.table.followed_by(second.table)
    return Split(name, table, np.concatenate([first.rows, second.rows + len(first.table)]), labels)


def hold_out(split: Split, size: int) -> tuple[Split, Split]:
    """Return what remains, and `size` images cut from it: stratified by class, random but the same in every run.

    Shares are proportional to the class sizes (largest remainders), and every class keeps at least one image
    in what remains. An image with several labels counts as one of its rarest class.

    Raises:
        UserError: The classes are too small for that many.
    """
    strata = _strata(split.labels)
    classes, counts = np.unique(strata, return_counts=True)
    exact = counts * size / max(len(split), 1)
    shares = np.minimum(np.floor(exact).astype(np.int64), counts - 1)
    if not 1 <= size <= (counts - 1).sum():
        raise UserError(
            f"{split.name}: cannot hold out {size} of {len(split)} images in {len(classes)} classes and "
            "leave one of each class for training; add images, or give val and test splits of your own"
        )
    by_remainder = np.argsort(shares - exact, kind="stable")
    while shares.sum() < size:
        for position in by_remainder:
            shares[position] += shares.sum() < size and shares[position] < counts[position] - 1
    rng = np.random.default_rng(_HOLDOUT_SEED)
    held = [
        rng.permutation(np.flatnonzero(strata == label))[:share] for label, share in zip(classes, shares, strict=True)
    ]
    mask = np.zeros(len(split), dtype=bool)
    mask[np.concatenate(held)] = True
    return split.select(np.flatnonzero(~mask)), split.select(np.flatnonzero(mask))


def _strata(labels: Tensor) -> NDArray[np.int64]:
    if labels.ndim == 1:
        return labels.numpy()
    frequency = labels.sum(dim=0)
    rarest = torch.where(labels > 0, frequency, torch.inf).argmin(dim=1)
    return torch.where(labels.any(dim=1), rarest, -1).numpy()
