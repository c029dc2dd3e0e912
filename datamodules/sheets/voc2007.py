"""PASCAL VOC 2007, the classification task: which of twenty kinds of objects a photograph shows, one or several.

Contents: 9,963 photographs; 1.5 labels each.
Splits: the official train 2,501, val 2,510 and test 4,952. Published results train on train + val = 5,011 after
    choosing on val.
Classes: 20, in alphabetical order. An image may have several labels, so `multilabel` must be set. The lists say 1
    where an object of the class is there, -1 where none is, and 0 where all of them are marked difficult. The devkit's
    own evaluation (VOCevalcls.m) leaves an image with 0 out for that class; here it counts as one without the label, as
    in mmpretrain by default, and a warning says how many there are.
Archive: VOCtrainval_06-Nov-2007.tar (MD5 c52e279531787c972589f7e41ab4ae64) and VOCtest_06-Nov-2007.tar
    (b6e924de25625d8de591ea690078ad9f), extracted into one folder: VOCdevkit/VOC2007/JPEGImages/<id>.jpg and
    ImageSets/Main/<class>_{train,val,test}.txt.
Copies: none that is known to have all three splits; `mteb/VOC2007` has train and test.
Licence: flickr's terms of use, as the photographs are from there.
Citation: M. Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", 2010.
Published accuracy of EfficientNet: none; ResNet-50, fine-tuned (SimCLR, Table B.5): 85.0 % (11-point mAP).
Metric: the mean over the classes of the precision interpolated at 11 recalls, `map_11`.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.dataset.sheet import load_class_names
from datamodules.sheets.benchmark import Benchmark
from transfer.errors import DamagedFile

if TYPE_CHECKING:
    from datamodules.dataset.split import Split

_HAS, _DIFFICULT, _LACKS = "1", "0", "-1"


class VOC2007(Benchmark):
    """VOC 2007's classification task, from the authors' archives."""

    name = "voc2007"
    layout = Layout(
        needs=("JPEGImages", *(f"ImageSets/Main/aeroplane_{split}.txt" for split in ("train", "val", "test"))),
        folders=("VOCdevkit/VOC2007", "VOC2007"),
        files=(  # tensorflow/datasets, url_checksums/voc.txt; the MD5 are torchvision's
            OfficialFile(
                "VOCtrainval_06-Nov-2007.tar",
                sha256="7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
                md5="c52e279531787c972589f7e41ab4ae64",
                num_bytes=460_032_000,
                url="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar",
            ),
            OfficialFile(
                "VOCtest_06-Nov-2007.tar",
                sha256="6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
                md5="b6e924de25625d8de591ea690078ad9f",
                num_bytes=451_020_800,
                url="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar",
            ),
        ),
    )
    num_examples: ClassVar = {"train": 2_501, "val": 2_510, "test": 4_952}
    # As MTEB counted them on `mteb/VOC2007` (embeddings-benchmark/mteb, descriptive_stats, VOC2007.json).
    class_counts: ClassVar = {
        "train": [112, 116, 180, 81, 139, 97, 376, 163, 224, 69, 97, 203, 139, 120, 1_025, 133, 48, 111, 127, 128],
        "test": [204, 239, 282, 172, 212, 174, 721, 322, 417, 127, 190, 418, 274, 222, 2_007, 224, 97, 223, 259, 229],
    }
    num_classes = 20
    official_names = load_class_names("voc2007")
    multilabel = True

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        import torch

        from datamodules.reading.archives import image_split

        splits, num_difficult = {}, 0
        for split in self.num_examples:
            columns = {
                name: _read_column(folder / "ImageSets/Main" / f"{name}_{split}.txt") for name in self.official_names
            }
            images = list(columns[self.official_names[0]])
            for name, column in columns.items():
                if list(column) != images:
                    raise DamagedFile(
                        f"{folder}/ImageSets/Main: {name}_{split}.txt lists other images than"
                        f" {self.official_names[0]}_{split}.txt"
                    )
            num_difficult += sum(value == _DIFFICULT for column in columns.values() for value in column.values())
            hot = torch.tensor([[float(column[image] == _HAS) for column in columns.values()] for image in images])
            files = [f"JPEGImages/{image}.jpg" for image in images]
            read = image_split(f"{self.name} {split}", folder, files, [0] * len(files))
            splits[split] = replace(read, labels=hot)
        if num_difficult:
            warnings.warn(
                f"{self.name}: {num_difficult:,} times, all objects of a class in an image are marked difficult: it"
                " counts as without the label, where the devkit's evaluation leaves it out for that class",
                stacklevel=2,
            )
        return tuple(self.official_names), splits


def _read_column(path: Path) -> dict[str, str]:
    """Return what a list says of each image: `1`, `0` or `-1`."""
    from datamodules.reading.archives import read_lines

    rows = [line.split() for line in read_lines(path)]
    if strange := [row for row in rows if len(row) != 2 or row[1] not in (_HAS, _DIFFICULT, _LACKS)]:
        raise DamagedFile(f"{path}: {' '.join(strange[0])!r} is not '<image> <1, 0 or -1>'")
    return dict(rows)
