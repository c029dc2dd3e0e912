"""iNaturalist 2018: species in the wild, with the long tail of what people observe.

Contents: 461,939 photographs with labels, at most 800 pixels a side.
Splits: train 415,637, val 21,876, test 24,426. The labels of the competition's test images are not public, so test is
    the official validation set, three photographs of each species, on which published results are. The official train
    has 437,513; val, 5 percent of it, is cut here, stratified, the same in every run. Its size is this project's own
    choice, as no published one is known here. `train_on` trainval trains on the whole official train.
Classes: 8,142 species by their id, from 0. Their names are those of categories.json if it lies beside the annotations;
    those in the annotations are obfuscated. Where names repeat, a class is called <supercategory>/<id>.
Archive: train_val2018.tar.gz (120 GB, MD5 b1c6952ce38f31868cc50ea72d066cc3), train2018.json.tar.gz and
    val2018.json.tar.gz, extracted into one folder: train_val2018/<supercategory>/<id>/*.jpg, train2018.json and
    val2018.json.
Copies: none on the hub that is known here.
Licence: non-commercial research and education; the images may not be distributed (visipedia/inat_comp, 2018/README.md).
Citation: G. Van Horn et al., "The iNaturalist Species Classification and Detection Dataset", 2018.
Published accuracy of EfficientNet: none that is known here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NotRequired

from typing_extensions import TypedDict

from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.sheets.benchmark import Benchmark
from transfer.errors import DamagedFile
from transfer.files import read_json, read_object
from transfer.records import checked

if TYPE_CHECKING:
    from datamodules.dataset.split import Split

_URL = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018"
_ANNOTATIONS = {"train": "train2018.json", "test": "val2018.json"}
_NAMES = "categories.json"


class _Category(TypedDict):
    id: int
    name: str
    supercategory: NotRequired[str]


class _Image(TypedDict):
    id: int
    file_name: str


class _Annotation(TypedDict):
    image_id: int
    category_id: int


class _Annotations(TypedDict):
    """What the organisers publish of a split, as far as it is read."""

    categories: list[_Category]
    images: list[_Image]
    annotations: list[_Annotation]


class INaturalist2018(Benchmark):
    """iNaturalist 2018, from the organisers' archives; the official validation set is the test."""

    name = "inat2018"
    layout = Layout(
        needs=("train_val2018", *_ANNOTATIONS.values()),
        folders=("inat2018", "2018"),
        files=(  # visipedia/inat_comp, 2018/README.md
            OfficialFile(
                "train_val2018.tar.gz", md5="b1c6952ce38f31868cc50ea72d066cc3", url=f"{_URL}/train_val2018.tar.gz"
            ),
            OfficialFile(
                "train2018.json.tar.gz", md5="bfa29d89d629cbf04d826a720c0a68b0", url=f"{_URL}/train2018.json.tar.gz"
            ),
            OfficialFile(
                "val2018.json.tar.gz", md5="f2ed8bfe3e9901cdefceb4e53cd3775d", url=f"{_URL}/val2018.json.tar.gz"
            ),
            OfficialFile("categories.json.tar.gz", url=f"{_URL}/categories.json.tar.gz"),
        ),
    )
    num_examples: ClassVar = {"train": 437_513, "test": 24_426}
    images_per_class: ClassVar = {"test": (3, 3)}
    num_classes = 8_142
    val_size = 21_876

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.archives import image_split

        splits, names = {}, None
        for split, file in _ANNOTATIONS.items():
            path = folder / file
            content = checked(read_object(path), _Annotations, path)
            categories = {category["id"]: category for category in content["categories"]}
            names = names or _class_names(categories, path, folder / _NAMES)
            image_names = {image["id"]: image["file_name"] for image in content["images"]}
            rows = content["annotations"]
            if strange := [row["category_id"] for row in rows if row["category_id"] not in categories]:
                raise DamagedFile(f"{path}: category {strange[0]} is not among its {len(categories)} categories")
            if strange := [row["image_id"] for row in rows if row["image_id"] not in image_names]:
                raise DamagedFile(f"{path}: image {strange[0]} is not among its {len(image_names)} images")
            files, labels = [image_names[row["image_id"]] for row in rows], [row["category_id"] for row in rows]
            splits[split] = image_split(f"{self.name} {split}", folder, files, labels)
        assert names is not None
        return names, splits


def _class_names(categories: dict[int, _Category], path: Path, published_later: Path) -> tuple[str, ...]:
    """Return the class names in the order of the ids, which must be 0 to C - 1."""
    if sorted(categories) != list(range(len(categories))):
        raise DamagedFile(f"{path}: its category ids are not 0 to {len(categories) - 1}")
    named = dict(categories)
    if published_later.is_file():
        named |= {one["id"]: one for one in checked(read_json(published_later), list[_Category], published_later)}
    names = [named[index]["name"] for index in range(len(categories))]
    if len(set(names)) < len(names):
        names = [f"{categories[index].get('supercategory')}/{index}" for index in range(len(categories))]
    return tuple(names)
