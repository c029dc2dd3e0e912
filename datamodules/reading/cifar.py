"""CIFAR's own files: pickled batches of raw pixels and a list of class names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.dataset.split import Split
from datamodules.reading.archives import build_split
from datamodules.reading.pickles import as_text, read_pickle
from transfer.errors import DamagedFile


def read_names(path: Path, key: str) -> tuple[str, ...]:
    """Return the class names in a CIFAR meta file.

    Raises:
        UserError: It has no such list.
    """
    return tuple(as_text(name) for name in _list(read_pickle(path), key, path))


def read_split(name: str, files: Sequence[Path], label_key: str, num_classes: int) -> Split:
    """Return a split from CIFAR's batches of 32x32 pixels, losslessly.

    Args:
        name: What errors call it.
        files: Pickles with `data`, uint8 (N, 3072): red, green, blue planes; labels from 0; `filenames`.
        label_key: `labels` or `fine_labels`.
        num_classes: Labels from here on are refused.

    Raises:
        UserError: It is not such a file.
    """
    images: list[tuple[bytes | None, str]] = []
    labels: list[int] = []
    for path in files:
        batch = read_pickle(path)
        data, batch_labels = _entry(batch, "data", path), _list(batch, label_key, path)
        kind = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        if kind != (expected := f"uint8 ({len(batch_labels)}, 3072)"):
            raise DamagedFile(f"{path}: data is {kind}, where {expected} is expected")
        if outside := [label for label in batch_labels if label not in range(num_classes)]:
            raise DamagedFile(f"{path}: label {outside[0]!r} is not in 0..{num_classes - 1}")
        names = [as_text(file) for file in _list({"filenames": [], **batch}, "filenames", path)]
        if len(names) not in (0, len(batch_labels)):
            raise DamagedFile(f"{path}: {len(names)} file names for {len(batch_labels)} images")
        names = names or [""] * len(batch_labels)
        images += zip(_encode_pixels(data.reshape(-1, 3, 32, 32)), names, strict=True)
        labels += batch_labels
    return build_split(name, images, labels)


def _entry(content: dict[str, Any], key: str, path: Path) -> Any:
    if key not in content:
        raise DamagedFile(f"{path}: no {key!r} in it (it has: {', '.join(content)})")
    return content[key]


def _list(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    found = _entry(content, key, path)
    if not isinstance(found, list | tuple):
        raise DamagedFile(f"{path}: {key!r} is a {type(found).__name__}, where a list is expected")
    return list(found)


def _encode_pixels(planes: NDArray[np.uint8]) -> list[bytes]:
    """Return planes (N, 3, H, W) as files of raw pixels (PPM), which is exact and quicker than PNG."""
    height, width = planes.shape[2:]
    header = f"P6\n{width} {height}\n255\n".encode()
    return [header + picture.tobytes() for picture in planes.transpose(0, 2, 3, 1)]
