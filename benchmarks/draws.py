"""Stratified draws of a few photos, as tables that commands read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transfer.errors import UserError
from transfer.images.decode import PICTURE_SUFFIXES

MOST_TESTED = 1000
Photos = list[tuple[str, str]]  # path and label


def clothing(data_root: Path) -> Photos:
    """Return the photos of both folders."""
    paths = sorted(p for p in (data_root / "clothing").rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise UserError(f"{data_root} has no photos in clothing/")
    return [(str(path.resolve()), path.parent.name) for path in paths]


def cifar10(data_root: Path, folder: Path) -> Photos:
    """Return the first 10,000 training images, whose files are written to a folder."""
    import pyarrow.parquet

    files = sorted((data_root / "uoft-cs/cifar10/plain_text").glob("train-*.parquet"))
    if not files:
        raise UserError(f"{data_root} has no uoft-cs/cifar10/plain_text/train-*.parquet")
    folder.mkdir(exist_ok=True)
    photos = []
    for number, row in enumerate(pyarrow.parquet.read_table(files[0])[:10_000].to_pylist()):
        path = folder / f"{number}{Path(row['img']['path'] or '.png').suffix}"
        path.write_bytes(row["img"]["bytes"])
        photos.append((str(path.resolve()), f"class{row['label']}"))
    return photos


def save_draw(photos: Photos, num_images: int, seed: int, path: Path) -> None:
    """Write a table of a draw's photos with their splits."""
    splits = draw(np.array([label for _, label in photos]), num_images, seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [(*photo, split) for photo, split in zip(photos, splits, strict=True) if split]
        csv.writer(file).writerows([("path", "label", "split"), *rows])


def draw(labels: NDArray[np.str_], num_images: int, seed: int) -> NDArray[np.str_]:
    """Return the split of each photo, empty if it is left out.

    About `num_images` train, in the classes' shares and at least one of each class, a fifth as many, from 10 to 300,
    are val, and up to 1,000 of the others test.
    """
    rng = np.random.default_rng(seed)
    splits = np.full(len(labels), "", dtype="<U5")
    num_val = min(max(10, num_images // 5), 300)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        train, val = (max(1, round(count * len(members) / len(labels))) for count in (num_images, num_val))
        splits[members[:train]], splits[members[train : train + val]] = "train", "val"
    splits[rng.permutation(np.flatnonzero(splits == ""))[:MOST_TESTED]] = "test"
    return splits
