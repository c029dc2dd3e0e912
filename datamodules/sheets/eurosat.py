"""EuroSAT: land use and land cover seen by the satellite Sentinel-2, in RGB.

Contents: 27,000 images of 64x64 pixels, 2,000 to 3,000 per class (torchgeo's table of counts).
Splits: the authors have none. These are train 16,200, val 5,400, test 5,400, those of Neumann et al. 2019 (arXiv
    1911.06721; github.com/google-research/google-research, remote_sensing_representations), which torchgeo and
    `timm/eurosat-rgb` take too. Accuracies on other cuts, such as the random ones of the authors' paper, are not
    comparable. VTAB's 60, 20 and 20 percent in TFDS's order have the same sizes; whether its images are the same is
    not known.
Classes: 10, in alphabetical order, as the folders are called.
Archive: EuroSAT.zip (MD5 c8fa014336c82ac7804f0398fcb19387): 2750/<class>/<class>_<number>.jpg; and beside that folder
    eurosat-train.txt, eurosat-val.txt and eurosat-test.txt, one file name a line.
Licence: MIT, as the copies on the hub state it.
Citation: P. Helber et al., "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover
    Classification", 2019.
Published accuracy of EfficientNet: none that is known here.
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

_LISTS = "https://storage.googleapis.com/remote_sensing_representations"


class EuroSAT(Benchmark):
    """EuroSAT in RGB, as `timm/eurosat-rgb` (92 MB)."""

    name = "eurosat"
    copies = (
        HubCopy(
            "timm/eurosat-rgb",
            revision="b4e28552cd5f3932b6abc37eb20d3e84901ad728",
            split_names={"train": "train", "val": "validation", "test": "test"},
        ),
    )
    layout = Layout(
        needs=("2750", "eurosat-train.txt", "eurosat-val.txt", "eurosat-test.txt"),
        folders=("eurosat", "EuroSAT"),
        files=(  # tensorflow/datasets, url_checksums/eurosat.txt; the MD5 are torchvision's and torchgeo's
            OfficialFile(
                "EuroSAT.zip",
                sha256="8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd",
                md5="c8fa014336c82ac7804f0398fcb19387",
                num_bytes=94_280_567,
                url="https://huggingface.co/datasets/torchgeo/eurosat/resolve/main/EuroSAT.zip",
            ),
            OfficialFile(
                "eurosat-train.txt", md5="908f142e73d6acdf3f482c5e80d851b1", url=f"{_LISTS}/eurosat-train.txt"
            ),
            OfficialFile("eurosat-val.txt", md5="95de90f2aa998f70a3b2416bfe0687b4", url=f"{_LISTS}/eurosat-val.txt"),
            OfficialFile("eurosat-test.txt", md5="7ae5ab94471417b6e315763121e67c5f", url=f"{_LISTS}/eurosat-test.txt"),
        ),
    )
    num_examples: ClassVar = {"train": 16_200, "val": 5_400, "test": 5_400}
    # As MTEB counted them on `timm/eurosat-rgb` (embeddings-benchmark/mteb, descriptive_stats, EuroSAT.json).
    class_counts: ClassVar = {
        "train": [1_791, 1_787, 1_799, 1_505, 1_492, 1_195, 1_481, 1_863, 1_460, 1_827],
        "test": [596, 608, 573, 496, 501, 396, 538, 554, 529, 609],
    }
    num_classes = 10
    official_names = load_class_names("eurosat")
    wrong_copies = (WrongCopy({"train": 21_600, "val": 2_700}, "a copy that is cut anew, such as Honaker's"),)

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.archives import image_split, read_lines

        index_of = {name: index for index, name in enumerate(self.official_names)}
        splits = {}
        for split in self.num_examples:
            path = folder / f"eurosat-{split}.txt"
            images = [Path(line.strip()).stem for line in read_lines(path)]
            classes = [image.partition("_")[0] for image in images]
            if strange := [image for image, name in zip(images, classes, strict=True) if name not in index_of]:
                raise DamagedFile(f"{path}: {strange[0]!r} is not '<class>_<number>' with one of the 10 classes")
            files = [f"{name}/{image}.jpg" for image, name in zip(images, classes, strict=True)]
            splits[split] = image_split(
                f"{self.name} {split}", folder / "2750", files, [index_of[name] for name in classes]
            )
        return tuple(self.official_names), splits
