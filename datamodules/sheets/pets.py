"""Oxford-IIIT Pets: breeds of cats and dogs.

Contents: 7,349 photographs, 93 to 100 per class in train and 88 to 100 in test.
Splits: train 2,940, val 740, test 3,669. The official trainval split has 3,680 images; val is cut from it,
    stratified, the same in every run, because there is no official one; its size is BYOL's (Grill et al. 2020), who
    took 20 of each class where this takes a fifth. Test is the official test; the 3,369 in the EfficientNet paper's
    Table 6 is a misprint.
Classes: 37, in the official order, alphabetical without regard to case. (The archive capitalises cats; sorted with
    capitals first, 33 of 37 move.)
Archive: images.tar.gz (MD5 5c4f3ee8e5d25df40f4fd59a7f44e54c) and annotations.tar.gz
    (95a8c909bbe2e81eed6a22bccdf3f68f). It has more images (7,390) than its lists name (7,349).
Licence: CC BY-SA 4.0.
Citation: O. M. Parkhi et al., "Cats and Dogs", 2012.
Published accuracy (EfficientNet paper, Table 5): 94.8 % (B4), 95.4 % (B6).
Metric: mean per class in the literature that the paper follows; whether the paper's own is that too is not said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.dataset.sheet import HubCopy, WrongCopy, load_class_names, name_key
from datamodules.sheets.benchmark import Benchmark
from transfer.errors import DamagedFile

if TYPE_CHECKING:
    from datamodules.dataset.split import Split


class Pets(Benchmark):
    """Oxford-IIIT Pets, as `timm/oxford-iiit-pet` (790 MB)."""

    name = "pets"
    copies = (
        HubCopy("timm/oxford-iiit-pet", revision="10b688881011725fa2fa3d856a47536c9a7e6968"),
        HubCopy("isaacchung/OxfordPets", revision="557b480fae8d69247be74d9503b378a09425096f"),
    )
    layout = Layout(
        needs=("annotations/trainval.txt", "annotations/test.txt", "images"),
        folders=("oxford-iiit-pet",),
        files=(  # tensorflow/datasets, url_checksums/oxford_iiit_pet.txt
            OfficialFile(
                "images.tar.gz",
                sha256="67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
                num_bytes=791_918_971,
                url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
            ),
            OfficialFile(
                "annotations.tar.gz",
                sha256="52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
                md5="95a8c909bbe2e81eed6a22bccdf3f68f",
                num_bytes=19_173_078,
                url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
            ),
        ),
    )
    num_examples: ClassVar = {"train": 3_680, "test": 3_669}
    images_per_class: ClassVar = {"train": (93, 100), "test": (88, 100)}
    # As MTEB counted them on `isaacchung/OxfordPets` (embeddings-benchmark/mteb, descriptive_stats, OxfordPets.json).
    class_counts: ClassVar = {
        "train": [{7: 96, 11: 93, 12: 96, 22: 96, 32: 99}.get(index, 100) for index in range(37)],
        "test": [{0: 98, 7: 88, 8: 99, 11: 97, 18: 99, 30: 99, 34: 89}.get(index, 100) for index in range(37)],
    }
    num_classes = 37
    official_names = load_class_names("pets")
    wrong_copies = (
        WrongCopy({"train": 7_390}, "every image of the archive, not split and not only the listed ones"),
        WrongCopy({"train": 7_349}, "train and test in one"),
    )
    val_size = 740
    metric = "mean_per_class"

    def check_files(self, splits: Mapping[str, Split]) -> None:
        """Check that each file's name, such as `Maine_Coon_12.jpg`, begins with the name of its class."""
        for split in splits.values():
            for file, label in zip(split.file_names(), split.labels.tolist(), strict=True):
                named, _, number = file.rpartition(".")[0].rpartition("_")
                if named and number.isdecimal() and name_key(named) != name_key(self.official_names[label]):
                    raise DamagedFile(
                        f"{split.name}: {file} is labelled {self.official_names[label]!r}: a copy whose labels are"
                        " in another order than its class names. Download another"
                    )

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.archives import from_one, image_split, read_lines

        names: dict[int, str] = {}
        splits = {}
        for split, file in {"train": "trainval", "test": "test"}.items():
            path = folder / "annotations" / f"{file}.txt"
            rows = [line.split() for line in read_lines(path) if not line.startswith("#")]
            if strange := [row for row in rows if len(row) != 4 or not row[1].isdecimal()]:
                raise DamagedFile(f"{path}: {' '.join(strange[0])!r} is not '<image> <class> <species> <breed>'")
            labels = from_one([int(row[1]) for row in rows], self.num_classes, str(path))
            for (image, *_), label in zip(rows, labels, strict=True):
                name = image.rpartition("_")[0].lower()
                if names.setdefault(label, name) != name:
                    raise DamagedFile(f"{path}: class {label + 1} is {names[label]!r} and, for {image}, {name!r}")
            files = [f"images/{row[0]}.jpg" for row in rows]
            splits[split] = image_split(f"{self.name} {split}", folder, files, labels)
        return tuple(names[label] for label in sorted(names)), splits
