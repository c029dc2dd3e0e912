"""SUN397: scenes, from abbey to youth hostel.

Contents: 108,754 photographs; the authors' ten partitions take 50 of each class for train and 50 for test.
Splits: the first partition: train 15,880, val 3,970, test 19,850. Its train has 19,850 images; val, 10 of each class,
    is cut from it, stratified, the same in every run, because there is no official one; its size is BYOL's (Grill et
    al. 2020, App. D.1). Published results after Kornblith et al. are on this partition (SimCLR, App. B.8.1). TFDS's and
    VTAB's split of all images (76,128, 10,875 and 21,750) is another one.
Classes: 397, in the order of ClassName.txt, without the letter that each path begins with: `apse/indoor` is
    /a/apse/indoor. The names are TFDS's.
Archive: SUN397.tar.gz (39 GB, MD5 8ca2778205c41d23104230ba66911c7a): ClassName.txt, <letter>/<class>/sun_*.jpg; and
    Partitions.zip: Training_01.txt and Testing_01.txt, which may lie in that folder, in Partitions/ or beside it.
Copies: `tanganke/sun397` has 50 and 50 images of each class. Which of the ten partitions they are, its card does not
    say; a warning names that.
Licence: none that is known here; the photographs were found by search engines.
Citation: J. Xiao et al., "SUN Database: Large-scale Scene Recognition from Abbey to Zoo", 2010.
Published accuracy of EfficientNet: none; ResNet-50, fine-tuned (SimCLR, Table B.5): 64.3 %.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.dataset.sheet import HubCopy, WrongCopy, load_class_names
from datamodules.sheets.benchmark import Benchmark
from transfer.errors import DamagedFile, MissingData

if TYPE_CHECKING:
    from datamodules.dataset.split import Split

_NAMES = load_class_names("sun397")
_LISTS = {"train": "Training_01.txt", "test": "Testing_01.txt"}


class SUN397(Benchmark):
    """SUN397 with the first of its ten partitions, as `tanganke/sun397`."""

    name = "sun397"
    copies = (HubCopy("tanganke/sun397", revision="9c4afd6174afa3974f209a0ef099dbbe244dfd27"),)
    layout = Layout(
        needs=("ClassName.txt", "a", "y"),
        folders=("SUN397",),
        files=(  # tensorflow/datasets, url_checksums/sun397.txt; the MD5 is torchvision's
            OfficialFile(
                "SUN397.tar.gz",
                sha256="f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
                md5="8ca2778205c41d23104230ba66911c7a",
                num_bytes=39_077_296_924,
                url="https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
            ),
            OfficialFile(
                "Partitions.zip",
                sha256="e3311ea5f812d4cc6faef194688343d1111f6cd6f70f2c62f393c2b8d6ba1ec9",
                num_bytes=18_293_705,
                url="https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
            ),
        ),
    )
    num_examples: ClassVar = {"train": 19_850, "test": 19_850}
    images_per_class: ClassVar = {"train": (50, 50), "test": (50, 50)}
    num_classes = 397
    official_names = _NAMES
    name_aliases: ClassVar = {name.replace("/", " "): name for name in _NAMES if "/" in name}
    wrong_copies = (
        WrongCopy({"train": 76_128}, "the split of TFDS and VTAB, which takes all images"),
        WrongCopy({"train": 76_127}, "the copy of dpdl-benchmark/sun397, whose split takes all images"),
    )
    val_size = 3_970

    def check_files(self, splits: Mapping[str, Split]) -> None:
        """Warn where a copy does not say which partition it is; see `Sheet.check_files`."""
        if splits["train"].name != f"{self.name} train":
            warnings.warn(
                f"{splits['train'].name}: which of the ten partitions this copy has is not known; published results are"
                " on the first, which the authors' archive has",
                stacklevel=2,
            )

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.archives import image_split, read_lines

        names = tuple(line.strip()[3:] for line in read_lines(folder / "ClassName.txt"))
        index_of = {name: index for index, name in enumerate(names)}
        places = (folder, folder / "Partitions", folder.parent, folder.parent / "Partitions")
        lists = next((place for place in places if all((place / file).is_file() for file in _LISTS.values())), None)
        if lists is None:
            raise MissingData(
                f"{folder}: no {' and '.join(_LISTS.values())} there, in Partitions/ or beside it; extract"
                f" Partitions.zip ({self.layout.releases('Partitions.zip')[0].url}) into it"
            )
        splits = {}
        for split, file in _LISTS.items():
            images = [line.strip().lstrip("/") for line in read_lines(lists / file)]
            classes = [image.rpartition("/")[0][2:] for image in images]
            if strange := [image for image, name in zip(images, classes, strict=True) if name not in index_of]:
                raise DamagedFile(f"{lists / file}: the class of {strange[0]!r} is not in ClassName.txt")
            splits[split] = image_split(f"{self.name} {split}", folder, images, [index_of[name] for name in classes])
        return names, splits
