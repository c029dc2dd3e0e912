"""Oxford Flowers-102: flowers common in the United Kingdom.

Contents: 8,189 photographs, 40 to 258 per class.
Splits: the official train 1,020, val 1,020 (10 per class each) and test 6,149 (20 to 238 per class).
    Published results train on train + val = 2,040 after choosing on val; mirrors that swap train and test, or
    cut anew, are common.
Classes: 102, in the official order of the ids. The archive has no names; those here are torchvision's and TFDS's.
Archive: 102flowers.tgz (MD5 52808999861908f626f3c1f4e79d11fa), setid.mat, imagelabels.mat. Ids of images and classes
    count from 1; `trnid` is train and `tstid` test, which tutorials like to swap.
Licence: none stated by the copies on the hub.
Citation: M.-E. Nilsback and A. Zisserman, "Automated Flower Classification over a Large Number of Classes", 2008.
Published accuracy (EfficientNet paper, Table 5): 98.5 % (B5), 98.8 % (B7).
Metric: mean per class in the literature that the paper follows; whether the paper's own is that too is not said.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.dataset.sheet import HubCopy, WrongCopy, load_class_names
from datamodules.sheets.benchmark import Benchmark
from transfer.errors import DamagedFile

if TYPE_CHECKING:
    from datamodules.dataset.split import Split

_FILE = re.compile(r"image_0*(\d+)\.jpe?g", re.IGNORECASE)
# MD5 of each split's ids in setid.mat, in ascending order and separated by spaces.
_ID_DIGESTS = {
    "train": "2f793144d7b9ecf2a36990fd6de436cf",
    "val": "d01409d4266576694ad92063565fdc89",
    "test": "17a3e006072a509f3db00c2613301537",
}
# Test images of each class: imagelabels.mat at the ids in tstid of setid.mat.
_TEST_COUNTS = """
20 40 20 36 45 25 20 65 26 25 67 67 29 28 29 21 65 62 29 36 20 39 71 22 21 21 20 46 58 65 32 25 26 20 23 55 88 36 21
47 107 39 110 73 20 176 47 51 29 72 238 65 73 41 51 89 47 94 47 89 30 35 34 32 82 41 22 34 34 42 58 76 174 151 100 87
231 117 21 85 146 92 111 66 43 38 43 134 164 62 56 46 26 142 108 71 46 62 43 29 38 28
"""


class Flowers(Benchmark):
    """Flowers-102, as `dpdl-benchmark/oxford_flowers102`: official splits and order, in 3.4 GB."""

    name = "flowers"
    copies = (
        HubCopy(
            "dpdl-benchmark/oxford_flowers102",
            revision="544b55c9af69a05742ead7571cd7ae23cfcd758b",
            split_names={"train": "train", "val": "validation", "test": "test"},
        ),
        # Its revision, label column and names have not been checked against the hub.
        HubCopy("Donghyun99/Oxford-Flower-102", split_names={"train": "train", "val": "validation", "test": "test"}),
    )
    layout = Layout(
        needs=("jpg", "setid.mat", "imagelabels.mat"),
        folders=("flowers-102", "flowers102", "102flowers"),
        files=(  # tensorflow/datasets, url_checksums/oxford_flowers102.txt
            OfficialFile(
                "102flowers.tgz",
                sha256="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
                md5="52808999861908f626f3c1f4e79d11fa",
                num_bytes=344_862_509,
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
            ),
            OfficialFile(
                "setid.mat",
                sha256="46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
                md5="a5357ecc9cb78c4bef273ce3793fc85c",
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/setid.mat",
            ),
            OfficialFile(
                "imagelabels.mat",
                sha256="4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
                md5="e0620be6f572b9609742df49c70aed4d",
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/imagelabels.mat",
            ),
        ),
    )
    num_examples: ClassVar = {"train": 1_020, "val": 1_020, "test": 6_149}
    images_per_class: ClassVar = {"train": (10, 10), "val": (10, 10), "test": (20, 238)}
    class_counts: ClassVar = {"test": [int(count) for count in _TEST_COUNTS.split()]}
    num_classes = 102
    official_names = load_class_names("flowers")
    wrong_copies = (
        WrongCopy({"train": 7_169, "test": 1_020}, "the copy of nelorth/oxford-flowers, which is cut anew"),
        WrongCopy({"train": 6_149, "val": 1_020}, "train and test are swapped (trnid is train, tstid test)"),
        WrongCopy({"train": 6_149}, "the test images (tstid) taken for train"),
    )
    metric = "mean_per_class"
    id_digests: ClassVar = _ID_DIGESTS

    def check_files(self, splits: Mapping[str, Split]) -> None:
        """Check the ids in the files' names, such as `image_00042.jpg`; warn where a copy does not keep them.

        A copy that is cut anew with ten images of each class has the right counts everywhere.
        """
        for name, digest in self.id_digests.items():
            matches = [_FILE.fullmatch(file) for file in splits[name].file_names()]
            if not all(matches):
                warnings.warn(
                    f"{splits[name].name}: its files do not carry the authors' ids, so whether it is the official"
                    f" {name} split is not known",
                    stacklevel=2,
                )
                return
            ids = " ".join(map(str, sorted(int(match[1]) for match in matches if match)))
            if hashlib.md5(ids.encode(), usedforsecurity=False).hexdigest() != digest:
                raise DamagedFile(
                    f"{splits[name].name}: the ids in its files' names are not those of the official {name} split: a"
                    " copy that was cut anew. Download another"
                )

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.archives import from_one, image_split, read_mat

        (classes,) = read_mat(folder / "imagelabels.mat", "labels")
        ids = dict(
            zip(("train", "val", "test"), read_mat(folder / "setid.mat", "trnid", "valid", "tstid"), strict=True)
        )
        labels = from_one(classes, self.num_classes, str(folder / "imagelabels.mat"))
        splits = {}
        for split, images in ids.items():
            if images.min() < 1 or images.max() > len(labels):
                raise DamagedFile(
                    f"{folder / 'setid.mat'}: {split} has image ids {images.min()} to {images.max()}, "
                    f"where 1 to {len(labels)} have a label"
                )
            files = [f"jpg/image_{image:05d}.jpg" for image in images]
            splits[split] = image_split(f"{self.name} {split}", folder, files, [labels[image - 1] for image in images])
        return tuple(self.official_names), splits
