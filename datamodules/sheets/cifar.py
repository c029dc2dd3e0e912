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

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.dataset.sheet import HubCopy, load_class_names
from datamodules.sheets.benchmark import Benchmark

if TYPE_CHECKING:
    from datamodules.dataset.split import Split


class CIFAR10(Benchmark):
    """CIFAR-10, as `uoft-cs/cifar10`."""

    name = "cifar10"
    copies = (
        HubCopy(
            "uoft-cs/cifar10",
            config="plain_text",
            revision="0b2714987fa478483af9968de7c934580d0bb9a2",
            image_column="img",
        ),
        # Its revision and columns have not been checked against the hub.
        HubCopy("mteb/cifar10", image_column="img"),
    )
    layout = Layout(
        needs=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
        folders=("cifar-10-batches-py",),
        files=(
            OfficialFile(
                "cifar-10-python.tar.gz",
                md5="c58f30108f718f92721af3b95e74349a",
                url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            ),
        ),
    )
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
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.cifar import read_names, read_split

        names = read_names(folder / "batches.meta", "label_names")
        files = {"train": [folder / f"data_batch_{n}" for n in range(1, 6)], "test": [folder / "test_batch"]}
        return names, {
            split: read_split(f"{self.name} {split}", paths, "labels", len(names)) for split, paths in files.items()
        }


class CIFAR100(Benchmark):
    """CIFAR-100 with its fine labels, as `uoft-cs/cifar100`."""

    name = "cifar100"
    copies = (
        HubCopy(
            "uoft-cs/cifar100",
            config="cifar100",
            revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5",
            image_column="img",
            label_column="fine_label",
        ),
        # Its revision and columns have not been checked against the hub.
        HubCopy("mteb/cifar100", image_column="img", label_column="fine_label"),
    )
    layout = Layout(
        needs=("train", "test", "meta"),
        folders=("cifar-100-python",),
        files=(
            OfficialFile(
                "cifar-100-python.tar.gz",
                md5="eb9058c3a382ffc7106e4002c42a8d85",
                url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            ),
        ),
    )
    num_examples: ClassVar = {"train": 50_000, "test": 10_000}
    images_per_class: ClassVar = {"train": (500, 500), "test": (100, 100)}
    num_classes = 100
    official_names = load_class_names("cifar100")
    name_aliases: ClassVar = {"cra": "crab"}
    val_size = 5_067
    augment_policy = "cifar10"

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.cifar import read_names, read_split

        names = read_names(folder / "meta", "fine_label_names")
        return names, {
            split: read_split(f"{self.name} {split}", [folder / split], "fine_labels", len(names))
            for split in ("train", "test")
        }
