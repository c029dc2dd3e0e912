"""Food-101: dishes photographed by their eaters.

Contents: 101,000 photographs, 750 per class in train and 250 in test; the training labels are noisy on
    purpose. 34 training images are exact duplicates.
Splits: train 68,175, val 7,575, test 25,250. The official train split has 75,750 images; val is a tenth of it
    (75 per class, and as many as BYOL's), the same in every run, because there is no official one. Test is the
    official test, which the hub calls `validation`.
Classes: 101, in the order of the archive's classes.txt; torchvision's order swaps cheesecake and cheese_plate.
Archive: food-101.tar.gz (MD5 85eeb15f3717b99a5da872d97d918f87).
Licence: the images belong to their photographers; use beyond scientific fair use must be negotiated with them.
Citation: L. Bossard et al., "Food-101 - Mining Discriminative Components with Random Forests", 2014.
Published accuracy (EfficientNet paper, Table 5): 91.5 % (B4), 93.0 % (B7).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.dataset.sheet import HubCopy, load_class_names
from datamodules.sheets.benchmark import Benchmark
from transfer.errors import DamagedFile

if TYPE_CHECKING:
    from datamodules.dataset.split import Split


class Food101(Benchmark):
    """Food-101, as `ethz/food101` (5 GB)."""

    name = "food101"
    copies = (
        HubCopy(
            "ethz/food101",
            revision="e06acf2a88084f04bce4d4a525165d68e0a36c38",
            split_names={"train": "train", "test": "validation"},
        ),
        # Its revision and split names have not been checked against the hub.
        HubCopy("mteb/food101", split_names={"train": "train", "test": "validation"}),
    )
    layout = Layout(
        needs=("meta/classes.txt", "meta/train.json", "meta/test.json", "images"),
        folders=("food-101",),
        files=(  # tensorflow/datasets, url_checksums/food101.txt
            OfficialFile(
                "food-101.tar.gz",
                sha256="d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4",
                md5="85eeb15f3717b99a5da872d97d918f87",
                num_bytes=4_996_278_331,
                url="http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
            ),
        ),
    )
    num_examples: ClassVar = {"train": 75_750, "test": 25_250}
    images_per_class: ClassVar = {"train": (750, 750), "test": (250, 250)}
    num_classes = 101
    official_names = load_class_names("food101")
    val_size = 7_575

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.archives import image_split, read_lines
        from transfer.files import read_object

        names = [line.strip() for line in read_lines(folder / "meta" / "classes.txt")]
        splits = {}
        for split in self.num_examples:
            path = folder / "meta" / f"{split}.json"
            images = read_object(path)
            if images.keys() != set(names) or not all(isinstance(listed, list) for listed in images.values()):
                raise DamagedFile(f"{path}: its classes are not those of classes.txt")
            rows = [(f"images/{image}.jpg", label) for label, name in enumerate(names) for image in images[name]]
            splits[split] = image_split(
                f"{self.name} {split}", folder, [file for file, _ in rows], [label for _, label in rows]
            )
        return tuple(names), splits
