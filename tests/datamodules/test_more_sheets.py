"""Sheets besides those of the EfficientNet paper: miniatures in their exact layouts, and what the sheets declare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import datasets
import numpy as np
import pytest
from PIL import Image

from datamodules import get_sheet, load_dataset
from datamodules.dataset.checks import check_official
from datamodules.dataset.loaded import Dataset
from datamodules.dataset.sheet import load_class_names, name_key
from datamodules.sheets.dtd import DTD
from tests.datamodules.test_hub_datasets import in_memory, save_split
from transfer.errors import UserError

# Classes; train, val and test images; metric, as in Grill et al. 2020 (BYOL), Table 10, and Chen et al. 2020 (SimCLR),
# App. B.8.1.
BYOL_TABLE_10 = {
    "dtd": (47, (1_880, 1_880, 1_880), "top1"),
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
    found = sheet.num_classes, (sizes["train"], sizes["val"], sizes["test"]), sheet.metric
    assert found == BYOL_TABLE_10[name]


@pytest.mark.parametrize(("name", "first", "last"), [("dtd", "banded", "zigzagged")])
def test_the_official_names_are_all_there_and_in_order(name: str, first: str, last: str) -> None:
    names = load_class_names(name)
    assert len({name_key(label) for label in names}) == len(names) == get_sheet(name).num_classes
    assert (names[0], names[-1]) == (first, last) and list(names) == sorted(names)


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


# --------------------------------------------------------------------------- copies that are something else


@pytest.mark.parametrize(
    ("name", "sizes", "cause"),
    [
        ("dtd", {"train": 3_760, "val": 0, "test": 1_880}, "train and val in one, as in tanganke/dtd"),
        ("dtd", {"train": 3_960, "val": 840, "test": 840}, "GATE-engine/describable_textures, which is cut anew"),
    ],
)
def test_a_known_wrong_copy_is_named(name: str, sizes: Mapping[str, int], cause: str) -> None:
    splits = {split: in_memory(f"x {split}", size) for split, size in sizes.items()}
    with pytest.raises(UserError, match=rf"images expected, \d+ found.*\. Likely cause: .*{cause}"):
        check_official(splits, get_sheet(name), 1)
