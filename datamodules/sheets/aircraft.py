"""FGVC-Aircraft: aircraft models at the level of variants.

Contents: 10,000 photographs, 33 or 34 per class in train and in test, each with a 20-pixel photographer's banner at the
    bottom. The authors ask to remove it; nothing is cropped here: torchvision does not either, and whether the hub's
    copies still have it is not known.
Splits: the official train 3,334, val 3,333 and test 3,333. Published results train on train + val = 6,667
    after choosing on val.
Classes: 100 variants, ASCII-sorted from 707-320 to Yak-42, some with a space or a slash. The names are
    stable-datasets'. (The archive's README counts 102 variants and 10,200 images; its lists have 100 and 10,000.)
Archive: fgvc-aircraft-2013b.tar.gz (MD5 d4acdd33327262359767eeaa97a4f732).
Licence: non-commercial research only; the photographers keep the copyright.
Citation: S. Maji et al., "Fine-Grained Visual Classification of Aircraft", arXiv:1306.5151, 2013.
Published accuracy (EfficientNet paper, Table 5): 90.7 % (B3), 92.9 % (B7).
Metric: mean per class in the literature that the paper follows; whether the paper's own is that too is not said.
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


class Aircraft(Benchmark):
    """FGVC-Aircraft variants, as `Donghyun99/FGVC-Aircraft`.

    The name of its label column has not been checked against the hub; `label_column` overrides it.
    """

    name = "aircraft"
    copies = (
        HubCopy(
            "Donghyun99/FGVC-Aircraft",
            revision="3237e2c15db36fa9016794561b7aae6b49eef9a2",
            split_names={"train": "train", "val": "val", "test": "test"},
        ),
        # A pull request's revision: main had only a loading script. It has not been loaded here.
        HubCopy(
            "HuggingFaceM4/FGVC-Aircraft",
            revision="e18a7c97147c90dc7f4a60d74a7f4258e9264e97",
            split_names={"train": "train", "val": "validation", "test": "test"},
            label_column="variant",
        ),
    )
    layout = Layout(
        needs=("variants.txt", *(f"images_variant_{split}.txt" for split in ("train", "val", "test")), "images"),
        folders=("fgvc-aircraft-2013b/data", "data"),
        files=(
            OfficialFile(
                "fgvc-aircraft-2013b.tar.gz",
                sha256="e4e323d410e29f0370c81eabdcbb0e2b813acea1de22891b70b58ff41bfc9834",
                num_bytes=2_753_340_328,
                url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            ),
            # tensorflow/datasets, url_checksums/fgvc.txt: another release at the same address.
            OfficialFile(
                "fgvc-aircraft-2013b.tar.gz",
                sha256="d5f68b1b81d6d7831eb9d5c5517074176b5dfbce6bcb43dc14ed1c66a87b8d75",
                num_bytes=2_770_575_360,
            ),
        ),
    )
    num_examples: ClassVar = {"train": 3_334, "val": 3_333, "test": 3_333}
    images_per_class: ClassVar = {"train": (33, 34), "test": (33, 34)}
    num_classes = 100
    official_names = load_class_names("aircraft")
    wrong_copies = (
        WrongCopy({"train": 7_000, "val": 1_500, "test": 1_500}, "the copy of GATE-engine/aircraft, which is cut anew"),
    )
    metric = "mean_per_class"

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.archives import image_split, read_lines

        names = read_lines(folder / "variants.txt")
        index_of = {name.strip(): index for index, name in enumerate(names)}
        splits = {}
        for split in self.num_examples:
            path = folder / f"images_variant_{split}.txt"
            rows = [line.partition(" ") for line in read_lines(path)]  # names have spaces, ids have leading zeros
            if strange := [variant for _, _, variant in rows if variant.strip() not in index_of]:
                raise DamagedFile(f"{path}: variant {strange[0]!r} is not in variants.txt")
            files = [f"images/{image}.jpg" for image, _, _ in rows]
            labels = [index_of[variant.strip()] for _, _, variant in rows]
            splits[split] = image_split(f"{self.name} {split}", folder, files, labels)
        return tuple(index_of), splits
