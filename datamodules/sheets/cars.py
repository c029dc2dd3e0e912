"""Stanford Cars: make, model and year of cars.

Contents: 16,185 photographs, 24 to 68 per class in train and in test; 12 training images are exact duplicates.
Splits: train 6,494, val 1,650, test 8,041. The official train split has 8,144 images; val is cut from it,
    stratified, the same in every run, because there is no official one; its size is BYOL's (Grill et al. 2020).
    Test is the official test. (Metric learning's protocol of the first and last 98 classes is another one.)
Classes: 196, in the official order, which is not alphabetical: sorting moves 143. The names are TFDS's.
Archive: cars_train.tgz (MD5 065e5b463ae28d29e77c1b4b166cfe61), cars_test.tgz (4ce7ebf6a94d07f1952d94dd34c4d501),
    car_devkit.tgz (c3b158d763b6e2245038c8ad08e45376) and cars_test_annos_withlabels.mat, without which the test
    images have no classes: the devkit's own cars_test_annos.mat leaves them out. Or the authors' other layout, car_ims/
    with cars_annos.mat (fields relative_im_path, class from 1, test 0 or 1; class_names): its field names are those
    that public readers of the file use, the file itself was not at hand.
Licence: none found on the copies; often quoted as for research only. The original host has been gone since 2023.
Citation: J. Krause et al., "3D Object Representations for Fine-Grained Categorization", 2013.
Published accuracy (EfficientNet paper, Table 5): 93.6 % (B3), 94.7 % (B7).
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

_TEST_ANNOTATIONS = "cars_test_annos_withlabels.mat"
_ALL_ANNOTATIONS = "cars_annos.mat"

# Test images of each class, as MTEB counted them on `isaacchung/StanfordCars`
# (embeddings-benchmark/mteb, mteb/descriptive_stats/Image/ImageClassification/StanfordCars.json).
_TEST_COUNTS = """
44 32 43 42 40 44 39 45 41 33 38 36 41 42 43 43 40 42 40 46 42 42 39 45 39 34 35 41 42 41 44 41 42 44 41 41 38 40 36
39 35 34 46 44 32 43 35 42 37 42 43 41 44 40 39 46 37 44 44 36 43 37 44 29 45 41 38 40 38 42 35 45 44 43 44 43 40 37
48 43 45 45 40 42 43 42 44 39 44 41 38 40 39 43 45 41 42 46 27 33 42 39 39 42 43 41 44 44 44 43 42 45 42 45 45 37 42
41 68 42 44 40 44 39 43 42 41 39 38 41 42 43 42 33 42 24 43 39 42 42 34 32 40 46 44 43 44 45 42 36 43 35 44 42 42 39
36 29 36 44 48 45 36 43 44 41 47 42 38 44 46 44 43 41 30 38 44 41 45 42 38 46 42 40 38 38 43 43 40 43 46 42 41 45 43
40
"""


class Cars(Benchmark):
    """Stanford Cars, as `tanganke/stanford_cars`: the original JPEGs (1 GB per split)."""

    name = "cars"
    copies = (
        # The repository also holds seven corrupted copies of the test split. Not checked against the hub.
        HubCopy("tanganke/stanford_cars", files={"train": "data/train-*", "test": "data/test-*"}),
        HubCopy("isaacchung/StanfordCars", revision="09ffe9bc7864d3f1e851529e5c4b7e05601a04fb"),
    )
    layout = Layout(
        needs=("cars_train", "cars_test", "devkit/cars_train_annos.mat", "devkit/cars_meta.mat"),
        alternative=("car_ims", _ALL_ANNOTATIONS),
        folders=("stanford_cars", "stanford-cars"),
        files=(  # tensorflow/datasets, url_checksums/cars196.txt
            OfficialFile(
                "cars_train.tgz",
                sha256="512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288",
                md5="065e5b463ae28d29e77c1b4b166cfe61",
                num_bytes=979_269_282,
            ),
            OfficialFile(
                "cars_test.tgz",
                sha256="bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243",
                md5="4ce7ebf6a94d07f1952d94dd34c4d501",
                num_bytes=977_350_468,
            ),
            OfficialFile(
                "car_devkit.tgz",
                sha256="b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
                md5="c3b158d763b6e2245038c8ad08e45376",
                num_bytes=330_960,
            ),
            OfficialFile(
                _TEST_ANNOTATIONS,
                sha256="790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
                md5="b0a2b23655a3edd16d84508592a98d10",
            ),
            OfficialFile("car_ims.tgz"),
        ),
    )
    num_examples: ClassVar = {"train": 8_144, "test": 8_041}
    images_per_class: ClassVar = {"train": (24, 68), "test": (24, 68)}
    class_counts: ClassVar = {"test": [int(count) for count in _TEST_COUNTS.split()]}
    num_classes = 196
    official_names = load_class_names("cars")
    val_size = 1_650

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits; see `Benchmark.read_archive`."""
        from datamodules.reading.archives import from_one, image_split, read_field, read_mat
        from datamodules.reading.official_files import check_official_files

        if not all((folder / need).exists() for need in self.layout.needs):
            return self._read_single_folder(folder)
        labelled = next((place for place in (folder, folder / "devkit") if (place / _TEST_ANNOTATIONS).is_file()), None)
        if labelled is None:
            raise DamagedFile(
                f"{folder}: no {_TEST_ANNOTATIONS} there or in devkit/; the devkit's cars_test_annos.mat names no "
                "classes, so the test images cannot be scored without it"
            )
        check_official_files(labelled, self.layout)
        (names,) = read_mat(folder / "devkit" / "cars_meta.mat", "class_names")
        annotations = {
            "train": folder / "devkit" / "cars_train_annos.mat",
            "test": labelled / _TEST_ANNOTATIONS,
        }
        splits = {}
        for split, path in annotations.items():
            (rows,) = read_mat(path, "annotations")
            labels = from_one(read_field(rows, "class", path), len(names), str(path))
            files = [str(name) for name in read_field(rows, "fname", path)]
            splits[split] = image_split(f"{self.name} {split}", folder / f"cars_{split}", files, labels)
        return tuple(str(name) for name in names), splits

    def _read_single_folder(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        from datamodules.reading.archives import from_one, image_split, read_field, read_mat

        path = folder / _ALL_ANNOTATIONS
        rows, names = read_mat(path, "annotations", "class_names")
        labels = from_one(read_field(rows, "class", path), len(names), str(path))
        files = [str(name) for name in read_field(rows, "relative_im_path", path)]
        is_test = [bool(value) for value in read_field(rows, "test", path)]
        splits = {}
        for split, wanted in {"train": False, "test": True}.items():
            members = [index for index, value in enumerate(is_test) if value is wanted]
            splits[split] = image_split(
                f"{self.name} {split}", folder, [files[i] for i in members], [labels[i] for i in members]
            )
        return tuple(str(name) for name in names), splits
