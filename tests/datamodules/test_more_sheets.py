"""Sheets besides those of the EfficientNet paper: miniatures in their exact layouts, and what the sheets declare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import get_sheet, load_dataset, sheets
from datamodules.dataset.checks import check_official
from datamodules.dataset.loaded import Dataset
from datamodules.dataset.sheet import load_class_names, name_key
from datamodules.sheets.caltech101 import Caltech101
from datamodules.sheets.dtd import DTD
from datamodules.sheets.eurosat import EuroSAT
from datamodules.sheets.inat2018 import INaturalist2018
from datamodules.sheets.sun397 import SUN397
from datamodules.sheets.voc2007 import VOC2007
from tests.datamodules.test_hub_datasets import in_memory, save_split
from tests.support.runs import CHEAP, call
from transfer.commands import finetune
from transfer.errors import UserError

# Classes; train, val and test images; metric, as in Grill et al. 2020 (BYOL), Table 10, and Chen et al. 2020 (SimCLR),
# App. B.8.1.
BYOL_TABLE_10 = {
    "caltech101": (102, (2_550, 510, 6_084), "mean_per_class"),  # its table counts 101 classes: without background
    "dtd": (47, (1_880, 1_880, 1_880), "top1"),
    "sun397": (397, (15_880, 3_970, 19_850), "top1"),
    "voc2007": (20, (2_501, 2_510, 4_952), "map_11"),
}


@pytest.fixture(autouse=True)
def _cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def save_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def save_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def labels_by_file(data: Dataset, split: str) -> dict[str, int]:
    """<folder>/<file> -> label."""
    names = [Path(data.splits[split].image_name(index)) for index in range(len(data.splits[split]))]
    return {
        f"{path.parent.name}/{path.name}": label
        for path, label in zip(names, data.splits[split].labels.tolist(), strict=True)
    }


@pytest.mark.parametrize("name", BYOL_TABLE_10)
def test_declared_sizes_and_metrics_agree_with_byol(name: str) -> None:
    sheet = get_sheet(name)
    sizes = dict(sheet.num_examples)
    if sheet.val_size is not None:
        sizes |= {"train": sizes["train"] - sheet.val_size, "val": sheet.val_size}
    found = sheet.num_classes, (sizes["train"], sizes["val"], sizes["test"]), sheet.quoted_metric
    assert found == BYOL_TABLE_10[name]


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("caltech101", "accordion", "yin_yang"),
        ("dtd", "banded", "zigzagged"),
        ("eurosat", "AnnualCrop", "SeaLake"),
        ("sun397", "abbey", "youth_hostel"),
        ("voc2007", "aeroplane", "tvmonitor"),
    ],
)
def test_the_official_names_are_all_there_and_in_order(name: str, first: str, last: str) -> None:
    names = load_class_names(name)
    assert len({name_key(label) for label in names}) == len(names) == get_sheet(name).num_classes
    assert (names[0], names[-1]) == (first, last) and list(names) == sorted(names, key=str.lower)


# --------------------------------------------------------------------------- DTD


class TinyDTD(DTD):
    num_examples: ClassVar = {"train": 47, "val": 47, "test": 94}
    images_per_class: ClassVar = {"train": (1, 1), "val": (1, 1), "test": (2, 2)}


def save_dtd(folder: Path) -> None:
    for split, numbers in {"train": ["0004"], "val": ["0005"], "test": ["0002", "0006"]}.items():
        images = [f"{name}/{name}_{number}.jpg" for number in numbers for name in load_class_names("dtd")]
        save_lines(folder / "labels" / f"{split}1.txt", images)
        save_lines(folder / "labels" / f"{split}2.txt", images[:1])  # another of the ten splits
        for image in images:
            save_image(folder / "images" / image)


@pytest.mark.parametrize("below", ["dtd", "dtd/dtd", ""])
def test_dtd_takes_the_first_of_the_ten_splits(tmp_path: Path, below: str) -> None:
    save_dtd(tmp_path / below)
    data = load_dataset(TinyDTD(), data_root=tmp_path)
    assert data.class_counts == {"train": [1] * 47, "val": [1] * 47, "test": [2] * 47}
    labels = labels_by_file(data, "test")
    assert labels["banded/banded_0002.jpg"] == 0 and labels["polka-dotted/polka-dotted_0006.jpg"] == 30
    assert data.held_out == {}


def test_a_dtd_list_with_another_class_is_named(tmp_path: Path) -> None:
    save_dtd(tmp_path)
    save_lines(tmp_path / "labels" / "val1.txt", ["tartan/tartan_0001.jpg"])
    with pytest.raises(UserError, match=r"val1\.txt: 'tartan/tartan_0001\.jpg' is not '<class>/<image>' with one of"):
        load_dataset(TinyDTD(), data_root=tmp_path)


def test_the_hubs_dtd_has_its_three_splits(tmp_path: Path) -> None:
    folder = tmp_path / "mcimpoi" / "dtd_split_1" / "data"
    for seed, (split, size) in enumerate({"train": 47, "validation": 47, "test": 94}.items()):
        labels = [index % 47 for index in range(size)]
        save_split(folder, split, labels, 47, names=load_class_names("dtd"), first_seed=100 * seed)
    assert load_dataset(TinyDTD(), data_root=tmp_path).split_sizes == {"train": 47, "val": 47, "test": 94}


# --------------------------------------------------------------------------- EuroSAT


class TinyEuroSAT(EuroSAT):
    layout = replace(EuroSAT.layout, files=())
    num_examples: ClassVar = {"train": 20, "val": 10, "test": 10}
    class_counts: ClassVar = {"train": [2] * 10, "test": [1] * 10}


def save_eurosat(folder: Path, suffix: str = ".jpg") -> None:
    """Lists as they are published, for the RGB images; torchgeo's own are of the same names."""
    for split, numbers in {"train": (3000, 7), "val": (1,), "test": (20,)}.items():
        images = [f"{name}_{number}" for number in numbers for name in load_class_names("eurosat")]
        save_lines(folder / f"eurosat-{split}.txt", [f"{image}{suffix}" for image in images])
        for image in images:
            save_image(folder / "2750" / image.partition("_")[0] / f"{image}.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_eurosat_is_split_by_the_published_lists(tmp_path: Path, suffix: str) -> None:
    save_eurosat(tmp_path / "eurosat", suffix)
    data = load_dataset(TinyEuroSAT(), data_root=tmp_path)
    assert data.class_counts == {"train": [2] * 10, "val": [1] * 10, "test": [1] * 10}
    labels = labels_by_file(data, "train")
    assert labels["AnnualCrop/AnnualCrop_3000.jpg"] == 0 and labels["SeaLake/SeaLake_7.jpg"] == 9


def test_eurosat_without_its_lists_says_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "eurosat" / "2750").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        load_dataset("eurosat", data_root=tmp_path)
    text = str(caught.value)
    assert f"{tmp_path}/eurosat lacks eurosat-train.txt, eurosat-val.txt, eurosat-test.txt." in text
    assert "eurosat-val.txt (https://storage.googleapis.com/remote_sensing_representations/eurosat-val.txt)" in text


def test_a_eurosat_list_of_something_else_is_named(tmp_path: Path) -> None:
    save_eurosat(tmp_path)
    save_lines(tmp_path / "eurosat-test.txt", ["Desert_1.jpg"])
    with pytest.raises(UserError, match=r"eurosat-test\.txt: 'Desert_1' is not '<class>_<number>' with one of the 10"):
        load_dataset(TinyEuroSAT(), data_root=tmp_path)


def test_the_counts_of_eurosat_add_up_to_the_authors() -> None:
    """Torchgeo 0.x, datasets/eurosat.py: class_counts."""
    whole = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]
    train, test = (np.array(EuroSAT.class_counts[split]) for split in ("train", "test"))
    assert (train.sum(), test.sum(), (whole - train - test).sum()) == (16_200, 5_400, 5_400)
    assert (whole - train - test).min() > 300


# --------------------------------------------------------------------------- Caltech-101


class TinyCaltech101(Caltech101):
    num_examples: ClassVar = {"train": 306, "test": 102}
    images_per_class: ClassVar = {"train": (3, 3), "test": (1, 1)}
    class_counts: ClassVar = {}
    val_size = 102
    num_train_per_class = 3


def save_caltech(folder: Path) -> None:
    for label, name in enumerate(load_class_names("caltech101")):
        for number in range(1, 5):
            save_image(folder / name / f"image_{number:04d}.jpg", 10 * label + number)
    (folder / "BACKGROUND_Google" / "tmp").write_bytes(b"no picture")


@pytest.mark.filterwarnings("ignore:caltech101 has no official split")
def test_caltech_draws_as_many_of_each_class_by_content(tmp_path: Path) -> None:
    save_caltech(tmp_path / "a" / "caltech-101" / "101_ObjectCategories")
    with pytest.warns(
        UserWarning, match="no official split: 3 images of each class are drawn here for train, the same"
    ):
        data = load_dataset(TinyCaltech101(), data_root=tmp_path / "a")
    assert data.class_counts == {"train": [2] * 102, "val": [1] * 102, "test": [1] * 102}
    assert data.class_names[4] == "BACKGROUND_Google" and data.splits["test"].name == "caltech101 test"
    assert {Path(name).name for name in data.splits["test"].image_names()} == {f"image_000{n}.jpg" for n in range(1, 5)}
    drawn = data.fingerprint
    shutil.move(tmp_path / "a" / "caltech-101" / "101_ObjectCategories", tmp_path / "101_ObjectCategories")
    assert load_dataset(TinyCaltech101(), data_root=tmp_path).fingerprint == drawn


def test_caltech_without_a_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "101_ObjectCategories" / "accordion").mkdir(parents=True)
    with pytest.raises(UserError, match=r"101_ObjectCategories: no folder airplanes \(101 of 102 are missing\)"):
        load_dataset(TinyCaltech101(), data_root=tmp_path)


def test_the_counts_of_caltech_are_the_authors() -> None:
    counts = dict(zip(load_class_names("caltech101"), Caltech101.class_counts["test"], strict=True))
    assert sum(counts.values()) == 6_084 == 9_144 - 102 * 30
    known = {"airplanes": 800, "Motorbikes": 798, "Faces": 435, "Faces_easy": 435, "Leopards": 200, "inline_skate": 31}
    assert {name: counts[name] + 30 for name in known} == known


# --------------------------------------------------------------------------- SUN397


class TinySUN397(SUN397):
    num_examples: ClassVar = {"train": 12, "test": 6}
    images_per_class: ClassVar = {"train": (2, 2), "test": (1, 1)}
    num_classes = 6
    official_names = ("abbey", "apse/indoor", "bar", "temple/east_asia", "temple/south_asia", "yard")
    name_aliases: ClassVar = {
        "apse indoor": "apse/indoor",
        "temple east asia": "temple/east_asia",
        "temple south asia": "temple/south_asia",
    }
    val_size = 6


def save_sun(folder: Path, lists: Path) -> None:
    paths = [f"/{name[0]}/{name}" for name in TinySUN397.official_names]
    save_lines(folder / "ClassName.txt", paths)
    for partition in ("01", "02"):  # the second has them the other way round
        first, second = (("ab", "cd"), ("c", "a"))[partition == "02"]
        names = {"Training": first, "Testing": "c" if partition == "01" else second}
        for split, letters in names.items():
            images = [f"{path}/sun_{letter * 16}.jpg" for path in paths for letter in letters]
            save_lines(lists / f"{split}_{partition}.txt", images)
            for image in images:
                save_image(folder / image.lstrip("/"))


@pytest.mark.parametrize("lists", [".", "SUN397", "SUN397/Partitions", "Partitions"])
def test_sun397_takes_the_first_partition_wherever_its_lists_lie(tmp_path: Path, lists: str) -> None:
    save_sun(tmp_path / "SUN397", tmp_path / lists)
    data = load_dataset(TinySUN397(), data_root=tmp_path)
    assert data.class_counts == {"train": [1] * 6, "val": [1] * 6, "test": [1] * 6}
    assert data.class_names[3:] == ("temple/east_asia", "temple/south_asia", "yard")
    labels = labels_by_file(data, "test")
    assert labels == {
        f"{name.rpartition('/')[2]}/sun_cccccccccccccccc.jpg": i for i, name in enumerate(data.class_names)
    }


def test_sun397_without_its_lists_says_where_they_are(tmp_path: Path) -> None:
    save_sun(tmp_path / "SUN397", tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=r"no Training_01\.txt and Testing_01\.txt there, .* Partitions\.zip \(https://v"
    ):
        load_dataset(TinySUN397(), data_root=tmp_path)
    save_sun(tmp_path / "SUN397", tmp_path)
    save_lines(tmp_path / "Training_01.txt", ["/z/zoo/sun_a.jpg"])
    with pytest.raises(UserError, match=r"Training_01\.txt: the class of 'z/zoo/sun_a\.jpg' is not in ClassName\.txt"):
        load_dataset(TinySUN397(), data_root=tmp_path)


def test_the_hubs_sun397_writes_its_names_with_blanks_and_is_of_an_unknown_partition(tmp_path: Path) -> None:
    names = ("abbey", "apse indoor", "bar", "temple east asia", "temple south asia", "yard")
    for seed, (split, size) in enumerate({"train": 12, "test": 6}.items()):
        labels = [index % 6 for index in range(size)]
        save_split(tmp_path / "tanganke" / "sun397", split, labels, 6, names=names, first_seed=100 * seed)

    class Aliased(TinySUN397):
        name_aliases: ClassVar = {name.replace("/", " "): name for name in TinySUN397.official_names}

    with pytest.warns(
        UserWarning, match=r"tanganke/sun397 train: which of the ten partitions this copy has is not kno"
    ):
        data = load_dataset(Aliased(), data_root=tmp_path)
    assert data.class_names == TinySUN397.official_names and len(SUN397.name_aliases) == 126


# --------------------------------------------------------------------------- VOC 2007


class TinyVOC2007(VOC2007):
    num_examples: ClassVar = {"train": 20, "val": 20, "test": 20}
    class_counts: ClassVar = {}


def save_voc(folder: Path) -> None:
    """In each split, image i shows class i, and a person in the even ones; of the first five, only difficult ones."""
    names = load_class_names("voc2007")
    for number, split in enumerate(("train", "val", "test")):
        images = [f"{100 * number + index:06d}" for index in range(20)]
        for label, name in enumerate(names):
            values = [1 if index == label else -1 for index in range(20)]
            if name == "person":
                values = [1 if value > 0 or index % 2 == 0 else value for index, value in enumerate(values)]
                values[:5] = [0] * 5
            lines = [f"{image} {value:2d}" for image, value in zip(images, values, strict=True)]
            save_lines(folder / "ImageSets" / "Main" / f"{name}_{split}.txt", lines)
        for image in images:
            save_image(folder / "JPEGImages" / f"{image}.jpg", int(image))


def test_voc_gives_images_several_labels_and_counts_difficult_ones_as_none(tmp_path: Path) -> None:
    save_voc(tmp_path / "VOCdevkit" / "VOC2007")
    with pytest.warns(UserWarning, match="voc2007: 15 times, all objects of a class in an image are marked difficult"):
        data = load_dataset(TinyVOC2007(), data_root=tmp_path, multilabel=True)
    assert data.split_sizes == {"train": 20, "val": 20, "test": 20} and data.held_out == {}
    labels = data.splits["test"].labels
    assert labels.dtype == torch.float32 and labels.shape == (20, 20)
    person = data.class_names.index("person")
    assert labels[:, person].tolist() == [0] * 5 + [float(i % 2 == 0) for i in range(5, 20)]
    assert labels.sum(1).tolist() == [1.0 + (i > 4 and i % 2 == 0 and i != person) for i in range(20)]
    assert Path(data.splits["test"].image_name(7)).name == "000207.jpg"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:voc2007. 15 times")
def test_a_run_on_voc_quotes_its_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sheets._SHEETS, "voc2007", (__name__, "TinyVOC2007"))
    save_voc(tmp_path / "VOC2007")
    argv = [*CHEAP, "--dataset", "voc2007", "--data_root", tmp_path, "--backbone", "lite0", "--pretrained", "false"]
    argv += ["--data.batch_size", "8", "--method", "full", "--out_dir", tmp_path / "run"]
    assert call(finetune.main, *argv) == 2
    assert "the images of voc2007 have several labels; set --data.multilabel true" in capsys.readouterr().err
    assert call(finetune.main, *argv, "--data.multilabel", "true", "--monitor", "map_11") == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["quoted_metric"] == results["monitor"] == "map_11"
    low, high = (results["intervals"]["test"]["map_11"][bound] for bound in ("low", "high"))
    assert 0 < low < high < 1 and 0 < results["metrics"]["test"]["map_11"] < 1


def test_voc_without_several_labels_or_its_archive_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the images of voc2007 have several labels; set `multilabel`=True"):
        load_dataset("voc2007", data_root=tmp_path)
    with pytest.raises(UserError, match=r"no copy on the hub .* VOCtest_06-Nov-2007\.tar \(http://host\.robots\.ox"):
        load_dataset("voc2007", multilabel=True)
    with pytest.raises(UserError, match=r"^voc2007: `data_root`=DIR must hold the authors' archive, extracted: a fold"):
        load_dataset("voc2007", data_root=tmp_path, multilabel=True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["000000 2"], r"'000000 2' is not '<image> <1, 0 or -1>'"),
        (["000000 1"], r"lists other images than aeroplane_"),
    ],
)
def test_a_damaged_voc_list_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    save_voc(tmp_path)
    save_lines(tmp_path / "ImageSets" / "Main" / "cow_val.txt", lines)
    with pytest.raises(UserError, match=rf"(cow_val\.txt: {message}|cow_val\.txt {message})"):
        load_dataset(TinyVOC2007(), data_root=tmp_path, multilabel=True)


# --------------------------------------------------------------------------- iNaturalist 2018


class TinyINaturalist(INaturalist2018):
    num_examples: ClassVar = {"train": 15, "test": 9}
    num_classes = 3
    val_size = 3


def save_inat(folder: Path, names: Sequence[str] = ("0bfus", "cated", "names")) -> None:
    """Category 1 has most photographs; annotations are in another order than images."""
    supers = ("Aves", "Plantae", "Aves")
    categories = [
        {"id": i, "name": name, "supercategory": kind} for i, (name, kind) in enumerate(zip(names, supers, strict=True))
    ]
    start = 0
    for file, counts in {"train2018.json": (3, 9, 3), "val2018.json": (3, 3, 3)}.items():
        images, annotations = [], []
        for label in (label for label, count in enumerate(counts) for _ in range(count)):
            start += 1
            name = f"train_val2018/{supers[label]}/{label}/{start:032x}.jpg"
            save_image(folder / name, start)
            images.append({"id": start, "width": 8, "height": 8, "file_name": name, "rights_holder": "someone"})
            annotations.append({"id": start, "image_id": start, "category_id": label})
        content = {"info": {}, "images": images, "categories": categories, "annotations": annotations[::-1]}
        (folder / file).write_text(json.dumps(content), encoding="utf-8")


def test_inat_tests_on_the_official_validation_set(tmp_path: Path) -> None:
    save_inat(tmp_path / "inat2018")
    data = load_dataset(TinyINaturalist(), data_root=tmp_path)
    assert data.class_names == ("0bfus", "cated", "names") and list(data.held_out) == ["val"]
    assert data.split_sizes == {"train": 12, "val": 3, "test": 9} and data.class_counts["test"] == [3, 3, 3]
    assert [data.class_counts[split][1] for split in ("train", "val")] == [7, 2]
    assert labels_by_file(data, "test")[f"1/{19:032x}.jpg"] == 1
    whole = load_dataset(TinyINaturalist(), data_root=tmp_path, train_on="trainval")
    assert whole.split_sizes == {"train": 15, "test": 9}


def test_inat_takes_the_names_that_were_published_later_and_ids_where_names_repeat(tmp_path: Path) -> None:
    save_inat(tmp_path, names=("same", "same", "other"))
    assert load_dataset(TinyINaturalist(), data_root=tmp_path).class_names == ("Aves/0", "Plantae/1", "Aves/2")
    species = ["Turdus merula", "Quercus robur", "Parus major"]
    later = [{"id": index, "name": name} for index, name in enumerate(species)]
    (tmp_path / "categories.json").write_text(json.dumps(later), encoding="utf-8")
    assert load_dataset(TinyINaturalist(), data_root=tmp_path).class_names == tuple(species)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 1, "name": "x"}]}, r"its category ids are not 0 to 0"),
        ({"images": 3}, r"damaged: images: input should be a valid array"),
        ({"categories": [{"id": [0], "name": "x"}]}, r"damaged: categories\.0\.id: input should be a valid integer"),
        ({"annotations": [{"image_id": 1}]}, r"damaged: annotations\.0\.category_id: field required"),
        ({"annotations": [{"image_id": 99, "category_id": 1}]}, r"image 99 is not among its 15 images"),
        ({"annotations": [{"image_id": 1, "category_id": 7}]}, r"category 7 is not among its 3 categories"),
    ],
)
def test_damaged_inat_annotations_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save_inat(tmp_path)
    path = tmp_path / "train2018.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(UserError, match=rf"train2018\.json: {message}"):
        load_dataset(TinyINaturalist(), data_root=tmp_path)


def test_the_sizes_of_inat_are_the_organisers() -> None:
    """visipedia/inat_comp, 2018/README.md: species, train and val images of each supercategory."""
    species = [2917, 2031, 1258, 369, 321, 284, 262, 234, 178, 144, 114, 25, 4, 1]
    train = [118800, 87192, 143950, 7835, 6864, 22754, 8007, 20104, 5966, 11156, 4037, 621, 211, 16]
    sheet = get_sheet("inat2018")
    assert (sum(species), sum(train), 3 * sum(species)) == (sheet.num_classes, *sheet.num_examples.values())
    assert sheet.val_size == round(0.05 * sum(train))


# --------------------------------------------------------------------------- copies that are something else


@pytest.mark.parametrize(
    ("name", "sizes", "cause"),
    [
        ("dtd", {"train": 3_760, "val": 0, "test": 1_880}, "train and val in one, as in tanganke/dtd"),
        ("dtd", {"train": 3_960, "val": 840, "test": 840}, "GATE-engine/describable_textures, which is cut anew"),
        ("eurosat", {"train": 21_600, "val": 2_700, "test": 2_700}, "a copy that is cut anew"),
        ("sun397", {"train": 76_128, "test": 21_750}, "the split of TFDS and VTAB, which takes all images"),
        ("caltech101", {"train": 8_677, "test": 0}, "every picture but the background, not split"),
    ],
)
def test_a_known_wrong_copy_is_named(name: str, sizes: Mapping[str, int], cause: str) -> None:
    splits = {split: in_memory(f"x {split}", size) for split, size in sizes.items()}
    with pytest.raises(UserError, match=rf"images expected, \d+ found.*\. Likely cause: .*{cause}"):
        check_official(splits, get_sheet(name), 1)
