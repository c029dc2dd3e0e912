"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels each.

Contents: everyday objects; 6,000 images per class in CIFAR-10, 600 in CIFAR-100 (its 100 fine classes; the 20
    coarse ones are not used). 14 training images of CIFAR-100 are exact duplicates.
Splits: CIFAR-10 train 45,000, val 5,000, test 10,000; CIFAR-100 train 44,933, val 5,067, test 10,000. The official
    train split has 50,000 images; val is cut from it, stratified, the same in every run, because there is no
    official one; its sizes are BYOL's (Grill et al. 2020). Test is the official test.
Classes: 10 and 100, in the official order. The hub's card spells CIFAR-100's class 26 (crab) `cra`.
Archive: cifar-10-python.tar.gz (MD5 c58f30108f718f92721af3b95e74349a), cifar-100-python.tar.gz (MD5
    eb9058c3a382ffc7106e4002c42a8d85). Its pickles are read without running anything in them, its pixels kept exactly.
    Fingerprints are of files, and the hub copy's are others.
Licence: none stated; the images come from the 80 Million Tiny Images collection.
Citation: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
Published accuracy (EfficientNet paper, Table 5): CIFAR-10 98.1 % (B0), 98.9 % (B7); CIFAR-100 88.1 % (B0), 91.7 % (B7).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from datamodules.base import TransferDataModule
from datamodules.reading.archives import Layout, build_split
from datamodules.reading.pickles import as_text, read_pickle
from datamodules.reading.sources import HubCopy
from datamodules.reading.tables import load_class_names
from datamodules.split import Split
from transfer.errors import DamagedFile


class CIFAR10DataModule(TransferDataModule):
    """CIFAR-10, as `uoft-cs/cifar10`."""

    name = "cifar10"
    hub_id = "uoft-cs/cifar10"
    hub_config = "plain_text"
    hub_revision = "0b2714987fa478483af9968de7c934580d0bb9a2"
    # Its revision and columns have not been checked against the hub.
    hub_fallback = HubCopy("mteb/cifar10", image_column="img")
    layout = Layout(
        needs=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
        folders=("cifar-10-batches-py",),
        archives=("cifar-10-python.tar.gz",),
    )
    default_image_column = "img"
    num_examples: ClassVar = {"train": 50_000, "test": 10_000}
    images_per_class: ClassVar = {"train": (5_000, 5_000), "test": (1_000, 1_000)}
    num_classes = 10
    known_copies: ClassVar = {
        "4775614877db61b451c3b45e5079eba0": "a copy whose pixels went through JPEG once: not the original's",
    }
    official_names = load_class_names("cifar10")
    val_size = 5_000
    augment_policy = "cifar10"

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """See `TransferDataModule.read_archive`."""
        names = read_names(folder / "batches.meta", "label_names")
        files = {"train": [folder / f"data_batch_{n}" for n in range(1, 6)], "test": [folder / "test_batch"]}
        return names, {
            split: read_split(f"{self.name} {split}", paths, "labels", len(names)) for split, paths in files.items()
        }


class CIFAR100DataModule(TransferDataModule):
    """CIFAR-100 with its fine labels, as `uoft-cs/cifar100`."""

    name = "cifar100"
    hub_id = "uoft-cs/cifar100"
    hub_config = "cifar100"
    hub_revision = "aadb3af77e9048adbea6b47c21a81e47dd092ae5"
    # Its revision and columns have not been checked against the hub.
    hub_fallback = HubCopy("mteb/cifar100", image_column="img", label_column="fine_label")
    layout = Layout(
        needs=("train", "test", "meta"), folders=("cifar-100-python",), archives=("cifar-100-python.tar.gz",)
    )
    default_image_column = "img"
    default_label_column = "fine_label"
    num_examples: ClassVar = {"train": 50_000, "test": 10_000}
    images_per_class: ClassVar = {"train": (500, 500), "test": (100, 100)}
    num_classes = 100
    official_names = load_class_names("cifar100")
    name_aliases: ClassVar = {"cra": "crab"}
    val_size = 5_067
    augment_policy = "cifar10"

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """See `TransferDataModule.read_archive`."""
        names = read_names(folder / "meta", "fine_label_names")
        return names, {
            split: read_split(f"{self.name} {split}", [folder / split], "fine_labels", len(names))
            for split in ("train", "test")
        }


def read_names(path: Path, key: str) -> tuple[str, ...]:
    """The class names in a CIFAR meta file.

    Raises:
        UserError: no such list.
    """
    return tuple(as_text(name) for name in _entry(read_pickle(path), key, path))


def read_split(name: str, files: Sequence[Path], label_key: str, num_classes: int) -> Split:
    """A split from CIFAR's batches of 32x32 pixels, losslessly.

    Args:
        name: how errors call it.
        files: pickles with `data`, uint8 (N, 3072): red, green, blue planes; labels from 0; `filenames`.
        label_key: `labels` or `fine_labels`.
        num_classes: labels above are refused.

    Raises:
        UserError: not such a file.
    """
    images: list[tuple[bytes | None, str]] = []
    labels: list[int] = []
    for path in files:
        batch = read_pickle(path)
        data, batch_labels = _entry(batch, "data", path), list(_entry(batch, label_key, path))
        kind = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        if kind != (expected := f"uint8 ({len(batch_labels)}, 3072)"):
            raise DamagedFile(f"{path}: data is {kind}, where {expected} is expected")
        if outside := [label for label in batch_labels if label not in range(num_classes)]:
            raise DamagedFile(f"{path}: label {outside[0]!r} is not in 0..{num_classes - 1}")
        names = [as_text(file) for file in batch.get("filenames", [])] or [""] * len(batch_labels)
        images += zip(_encode_pixels(data.reshape(-1, 3, 32, 32)), names, strict=True)
        labels += batch_labels
    return build_split(name, images, labels)


def _entry(content: dict[str, Any], key: str, path: Path) -> Any:
    if key not in content:
        raise DamagedFile(f"{path}: no {key!r} in it (it has: {', '.join(content)})")
    return content[key]


def _encode_pixels(planes: NDArray[np.uint8]) -> list[bytes]:
    """Planes (N, 3, H, W) as files of raw pixels (PPM), which is exact and quicker than PNG."""
    height, width = planes.shape[2:]
    header = f"P6\n{width} {height}\n255\n".encode()
    return [header + picture.tobytes() for picture in planes.transpose(0, 2, 3, 1)]
