"""Caltech-101: pictures of objects, and a class of background.

Contents: 9,144 pictures, 31 to 800 per class.
Splits: the authors have none. Published results train on 30 random images of each class and test on the others (SimCLR,
    App. B.8.1, after Kornblith et al.): 3,060 and 6,084. From the archive, these 30 are drawn by content, the same in
    every run; the copy on the hub has TFDS's draw. So no two papers share a test set, and points of difference may be
    the draw's. Val is cut from train, stratified, the same in every run; its size is BYOL's (5 per class, as in Grill
    et al. 2020, App. D.1): train 2,550, val 510, test 6,084.
Classes: 102, the background (BACKGROUND_Google) included, in TFDS's order: alphabetical without regard to case. BYOL's
    Table 10 and the paper's name say 101, but 3,060 are 102 times 30; torchvision leaves the background out.
Archive: caltech-101.zip (MD5 3138e1922a9193bfa496528edbbc45d0), in which lies 101_ObjectCategories.tar.gz (MD5
    b224c7392d521a49829488ab0f1120d9), to be extracted too: 101_ObjectCategories/<class>/image_<number>.jpg.
Licence: CC BY 4.0, as the copies on the hub state it.
Citation: L. Fei-Fei et al., "Learning Generative Visual Models from Few Training Examples", 2004.
Published accuracy of EfficientNet: none; ResNet-50, fine-tuned (SimCLR, Table B.5): 93.3 %.
Metric: mean per class.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.dataset.sheet import HubCopy, WrongCopy, load_class_names
from datamodules.sheets.benchmark import Benchmark
from transfer.errors import DamagedFile

if TYPE_CHECKING:
    from datamodules.dataset.split import Split

_FOLDER = "101_ObjectCategories"
# As MTEB counted them on the hub's copy (embeddings-benchmark/mteb, descriptive_stats, Caltech101.json). 30 images of
# each class more are the whole class, so any draw leaves as many.
_TEST_COUNTS = """
25 770 12 12 437 17 24 16 3 98 68 13 55 61 20 13 93 17 29 32 77 17 39 43 40 20 21 27 37 22 35 38 45 34 23 34 55 405
405 37 37 15 4 4 21 69 70 12 24 58 50 1 34 56 84 31 51 170 48 11 36 13 10 57 2 46 768 25 5 9 17 8 15 23 4 27 52 29 19
10 33 9 54 27 5 34 15 56 29 34 5 55 19 56 45 209 7 29 4 26 9 30
"""


class Caltech101(Benchmark):
    """Caltech-101 with its background class, as `mteb/Caltech101` (138 MB)."""

    name = "caltech101"
    copies = (
        # Its revision and columns have not been checked against the hub.
        HubCopy("mteb/Caltech101"),
    )
    layout = Layout(
        needs=(_FOLDER,),
        folders=("caltech-101",),
        files=(
            OfficialFile(
                "caltech-101.zip",
                sha256="331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
                md5="3138e1922a9193bfa496528edbbc45d0",
                num_bytes=137_414_764,
                url="https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            ),
            OfficialFile(  # tensorflow/datasets, url_checksums/caltech101.txt; the MD5 is torchvision's
                f"{_FOLDER}.tar.gz",
                sha256="af6ece2f339791ca20f855943d8b55dd60892c0a25105fcd631ee3d6430f9926",
                md5="b224c7392d521a49829488ab0f1120d9",
                num_bytes=131_740_031,
            ),
        ),
    )
    num_examples: ClassVar = {"train": 3_060, "test": 6_084}
    images_per_class: ClassVar = {"train": (30, 30), "test": (1, 770)}
    class_counts: ClassVar = {"test": [int(count) for count in _TEST_COUNTS.split()]}
    num_classes = 102
    official_names = load_class_names("caltech101")
    wrong_copies = (WrongCopy({"train": 8_677}, "every picture but the background, not split"),)
    val_size = 510
    metric = "mean_per_class"
    num_train_per_class: ClassVar[int] = 30

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names, and train and test drawn from all pictures; see `Benchmark.read_archive`."""
        from datamodules.dataset.holdout import split_per_class
        from datamodules.reading.archives import image_split
        from transfer.images.listing import is_image, list_folder

        root = folder / _FOLDER
        present = {entry.name for entry in list_folder(root) if entry.is_dir()}
        if absent := [name for name in self.official_names if name not in present]:
            raise DamagedFile(f"{root}: no folder {absent[0]} ({len(absent)} of 102 are missing); extract it again")
        rows = [
            (f"{name}/{entry.name}", label)
            for label, name in enumerate(self.official_names)
            for entry in sorted(list_folder(root / name), key=lambda entry: entry.name)
            if is_image(Path(entry.name))
        ]
        whole = image_split(self.name, root, [file for file, _ in rows], [label for _, label in rows])
        train, test = split_per_class(whole, self.num_train_per_class, "test")
        warnings.warn(
            f"{self.name} has no official split: {self.num_train_per_class} images of each class are drawn here for"
            " train, the same in every run; published results have other draws",
            stacklevel=2,
        )
        splits = {"train": train, "test": test}
        return tuple(self.official_names), {
            name: replace(split, name=f"{self.name} {name}") for name, split in splits.items()
        }
