"""DTD, the Describable Textures Dataset: textures in the wild.

Contents: 5,640 photographs, 120 per class.
Splits: the first of the authors' ten: train 1,880, val 1,880, test 1,880, 40 of each class each. Published results are
    on it (SimCLR, App. B.8.1; BYOL, App. D.1), and train on train + val = 3,760 after choosing on val. TFDS and
    torchvision take it by default, too.
Classes: 47, in alphabetical order, each image by its key attribute. The names are those of the copies on the hub.
Archive: dtd-r1.0.1.tar.gz (MD5 fff73e5086ae6bdbea199a49dfb8a4c1), a plain tar in spite of its name, which `tar -xf`
    sees: images/<class>/<class>_<number>.jpg and labels/{train,val,test}1.txt.
Copies: `mcimpoi/dtd_split_1` is the first author's; its revision has not been checked against the hub. `tanganke/dtd`
    has train and val in one.
Licence: for research purposes, as the authors' page says; the first author's copy states CC BY 4.0.
Citation: M. Cimpoi et al., "Describing Textures in the Wild", 2014.
Published accuracy of EfficientNet: none; ResNet-50, fine-tuned (SimCLR, Table B.5): 74.6 %.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.dataset.sheet import HubCopy, WrongCopy, load_class_names
from datamodules.sheets.benchmark import Benchmark
from transfer.errors import DamagedFile

if TYPE_CHECKING:
    from datamodules.dataset.split import Split


class DTD(Benchmark):
    """DTD with the first of its ten splits, as `mcimpoi/dtd_split_1`."""

    name = "dtd"
    copies = (HubCopy("mcimpoi/dtd_split_1", split_names={"train": "train", "val": "validation", "test": "test"}),)
    layout = Layout(
        needs=("images", "labels/train1.txt", "labels/val1.txt", "labels/test1.txt"),
        folders=("dtd",),
        files=(  # tensorflow/datasets, url_checksums/dtd.txt; the MD5 is torchvision's
            OfficialFile(
                "dtd-r1.0.1.tar.gz",
                sha256="e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
                md5="fff73e5086ae6bdbea199a49dfb8a4c1",
                num_bytes=625_239_812,
                url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            ),
        ),
    )
    num_examples: ClassVar = {"train": 1_880, "val": 1_880, "test": 1_880}
    images_per_class: ClassVar = {"train": (40, 40), "val": (40, 40), "test": (40, 40)}
    num_classes = 47
    official_names = load_class_names("dtd")
    wrong_copies = (
        WrongCopy({"train": 3_760}, "train and val in one, as in tanganke/dtd"),
        WrongCopy({"train": 3_960}, "the copy of GATE-engine/describable_textures, which is cut anew"),
    )

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.archives import image_split, read_lines

        index_of = {name: index for index, name in enumerate(self.official_names)}
        splits = {}
        for split in self.num_examples:
            path = folder / "labels" / f"{split}1.txt"
            images = [line.strip() for line in read_lines(path)]
            if strange := [image for image in images if image.partition("/")[0] not in index_of]:
                raise DamagedFile(f"{path}: {strange[0]!r} is not '<class>/<image>' with one of the 47 classes")
            labels = [index_of[image.partition("/")[0]] for image in images]
            splits[split] = image_split(f"{self.name} {split}", folder / "images", images, labels)
        return tuple(self.official_names), splits
