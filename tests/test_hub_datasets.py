"""Benchmark data sheets: what they declare, and how they read the hub's layout without a network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import ClassVar

import datasets
import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from datamodules import build_datamodule, get_dataset, list_datasets
from datamodules.cifar import CIFAR10DataModule, CIFAR100DataModule
from datamodules.food import Food101DataModule
from transfer.errors import UserError

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
OFFICIAL = ["aircraft", "cars", "cifar10", "cifar100", "flowers", "food101", "pets"]


@pytest.fixture(autouse=True)
def _cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def save_split(
    folder: Path,
    split: str,
    labels: list[int],
    num_classes: int,
    columns: tuple[str, str] = ("image", "label"),
    broken: int | None = None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = [png(index) if index != broken else b"junk" for index in range(len(labels))]
    names = [f"class {index}" for index in range(num_classes)]
    image, label = columns
    table = datasets.Dataset.from_dict(
        {image: [{"bytes": c, "path": f"{i}.png"} for i, c in enumerate(content)], label: labels},
        features=datasets.Features({image: datasets.Image(decode=False), label: datasets.ClassLabel(names=names)}),
    ).cast_column(image, datasets.Image())
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


class TinyCIFAR10(CIFAR10DataModule):
    num_examples: ClassVar = {"train": 60, "test": 20}
    val_size = 10


class TinyFood101(Food101DataModule):
    num_examples: ClassVar = {"train": 12, "test": 4}
    num_classes = 2
    val_size = 2


@pytest.fixture
def tiny_cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "uoft-cs" / "cifar10" / "plain_text"
    for split, count in {"train": 60, "test": 20}.items():
        save_split(folder, split, [index % 10 for index in range(count)], 10, columns=("img", "label"))
    return tmp_path


def test_hub_layout_gives_a_stratified_val_and_the_official_test(tiny_cifar: Path) -> None:
    data = TinyCIFAR10(data_root=tiny_cifar, num_workers=0, image_size=32)
    data.setup()
    assert data.split_sizes == {"train": 50, "val": 10, "test": 20}
    assert data.class_counts == {"train": [5] * 10, "val": [1] * 10, "test": [2] * 10}
    assert data.class_names[3] == "class 3"
    assert data.splits["test"].image_name(4) == "uoft-cs/cifar10 test row 4 (4.png)"
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape == (20, 32, 32, 3) and labels.tolist() == [index % 10 for index in range(20)]


def test_other_counts_than_official_are_refused(tiny_cifar: Path) -> None:
    with pytest.raises(UserError, match=r"uoft-cs/cifar10 train: 50000 images expected, 60 found"):
        build_datamodule("cifar10", data_root=tiny_cifar).setup()


def test_hub_validation_of_food101_is_our_test(tmp_path: Path) -> None:
    folder = tmp_path / "ethz" / "food101" / "data"
    save_split(folder, "train", [0, 1] * 6, 2)
    save_split(folder, "validation", [0, 1] * 2, 2)
    data = TinyFood101(data_root=tmp_path, num_workers=0)
    data.setup()
    assert data.split_sizes == {"train": 10, "val": 2, "test": 4}
    assert data.class_counts["test"] == [2, 2]


def test_missing_folder_split_and_columns_are_named(tiny_cifar: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*uoft-cs/cifar100"):
        build_datamodule("cifar100", data_root=tiny_cifar).setup()
    with pytest.raises(UserError, match=r"no column 'image'; did you mean .* \(columns: img, label\)"):
        TinyCIFAR10(data_root=tiny_cifar, image_column="image").setup()
    with pytest.raises(UserError, match=r"cifar10 train: no column 'fine' .*--label_column"):
        TinyCIFAR10(data_root=tiny_cifar, label_column="fine").setup()
    next(tiny_cifar.rglob("test-*.parquet")).unlink()
    with pytest.raises(UserError, match=r"no test-\*\.parquet there or below it"):
        TinyCIFAR10(data_root=tiny_cifar).setup()


@pytest.mark.parametrize(("label", "shown"), [(-1, "-1"), (None, "None")])
def test_label_outside_the_classes_is_named(tmp_path: Path, label: int | None, shown: str) -> None:
    folder = tmp_path / "uoft-cs" / "cifar10"
    save_split(folder, "train", [*range(10), label] * 2, 10, columns=("img", "label"))
    save_split(folder, "test", [0], 10, columns=("img", "label"))
    with pytest.raises(UserError, match=rf"uoft-cs/cifar10 train row 10: label {shown} is not allowed .*0\.\.9"):
        TinyCIFAR10(data_root=tmp_path).setup()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_row_is_named_while_loading_or_skipped(tmp_path: Path, num_workers: int) -> None:
    folder = tmp_path / "uoft-cs" / "cifar10"
    save_split(folder, "train", [index % 10 for index in range(60)], 10, columns=("img", "label"))
    save_split(folder, "test", [index % 10 for index in range(20)], 10, columns=("img", "label"), broken=13)
    data = TinyCIFAR10(data_root=tmp_path, num_workers=num_workers, image_size=32)
    with pytest.raises(UserError, match=r"^uoft-cs/cifar10 test row 13 \(13.png\): not an image"):
        list(data.test_dataloader())
    skipping = TinyCIFAR10(data_root=tmp_path, num_workers=num_workers, on_bad_image="skip")
    with pytest.warns(UserWarning, match="1 image that cannot be read"):
        skipping.setup()
    assert skipping.split_sizes["test"] == 19


def test_no_network_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(UserError, match=r"cannot get uoft-cs/cifar10 .*--data_root DIR .*HF_HUB_OFFLINE=1"):
        build_datamodule("cifar10").setup()


def test_birdsnap_says_that_it_must_be_supplied(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="birdsnap has no complete copy on the hub"):
        build_datamodule("birdsnap").setup()
    for name in ("train/heron", "train/owl", "test/heron", "test/owl"):
        for index in range(6):
            path = tmp_path / "birdsnap" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(index))
    data = build_datamodule("birdsnap", data_root=tmp_path, num_workers=0)
    data.setup()
    assert data.split_sizes == {"train": 11, "val": 1, "test": 12}


def test_names_and_nearest_name() -> None:
    assert list_datasets() == sorted([*OFFICIAL, "birdsnap", "digits", "folder"])
    assert [get_dataset(name).name for name in list_datasets()] == list_datasets()
    with pytest.raises(UserError, match="unknown dataset 'cifar1'; did you mean 'cifar10"):
        get_dataset("cifar1")


# EfficientNet paper (arXiv:1905.11946v5), Table 6: classes, training and test images. It misprints Pets' 3,669.
TABLE_6 = {
    "cifar10": (10, 50_000, 10_000),
    "cifar100": (100, 50_000, 10_000),
    "cars": (196, 8_144, 8_041),
    "flowers": (102, 2_040, 6_149),
    "aircraft": (100, 6_667, 3_333),
    "pets": (37, 3_680, 3_669),
    "food101": (101, 75_750, 25_250),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_declared_sizes_agree_with_the_paper(name: str) -> None:
    sheet = get_dataset(name)
    declared = sheet.num_examples
    assert (sheet.num_classes, declared["train"] + declared.get("val", 0), declared["test"]) == TABLE_6[name]
    assert declared.keys() == sheet.split_names.keys()
    assert ("val" in declared) == (sheet.val_size is None)
    assert sheet.metric == ("mean_per_class" if name in ("flowers", "aircraft", "pets") else "top1")


def test_cifar100_reads_the_fine_labels() -> None:
    assert CIFAR100DataModule.default_label_column == "fine_label"


@pytest.mark.skipif(not (SHARED_DATA / "uoft-cs").is_dir(), reason="CIFAR-10 is not at ../shared/data")
def test_real_cifar10() -> None:
    data = build_datamodule("cifar10", data_root=SHARED_DATA, num_workers=0)
    data.setup()
    assert data.split_sizes == {"train": 45_000, "val": 5_000, "test": 10_000}
    assert data.class_counts == {"train": [4_500] * 10, "val": [500] * 10, "test": [1_000] * 10}
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert data.class_names == tuple(names.split())
    assert data.fingerprint == {
        "train": "21b7cd8f50bcaa985f0ae9de242f49cf",
        "val": "6dcf3d9b5cbfc164c63dc881cb92d3df",
        "test": "4775614877db61b451c3b45e5079eba0",
    }
