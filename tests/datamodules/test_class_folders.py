"""Which folders are splits and which are classes, and what is said where that is open; no image is decoded."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules import load_dataset
from datamodules.reading.class_folders import scan_class_folders
from datamodules.reading.split_names import find_splits
from transfer.errors import BadValue, DamagedFile, MissingData, UserError


def touch(root: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index}{suffix}").touch()
    return root


def counts(root: Path, layout: str = "auto") -> dict[str, Counter[str]]:
    return {split: Counter(table["label"]) for split, table in scan_class_folders(root, layout).items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "val", "test"], ["train", "val", "test"]),
        (["Training", "validation", "Testing"], ["train", "val", "test"]),
        (["training_set", "test_set"], ["train", "test"]),
        (["TrainSet", "dev-set", "testset"], ["train", "val", "test"]),
        (["seg_train", "seg_test", "seg_pred"], ["train", "test", None]),
        (["train2017", "val2017"], ["train", "val"]),
        (["train2017", "val2018"], [None, None]),
        (["train_images", "valid images", "EVAL"], ["train", "val", "test"]),
        (["bullet_train", "bus", "test_tube"], [None, None, None]),
        (["valid", "invalid"], ["val", None]),
        (["train_station", "train_car"], [None, None]),
        (["cat", "contest", "trainer", "development"], [None, None, None, None]),
        (["train_test", "train"], [None, "train"]),
    ],
)
def test_names_of_splits(names: list[str], expected: list[str | None]) -> None:
    found = find_splits(names)
    assert [found.get(name) for name in names] == expected


def test_split_folders_under_names_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, {"training_set/cat": 5, "training_set/dog": 4, "test_set/cat": 2, "test_set/dog": 1})
    assert counts(tmp_path) == {"train": {"cat": 5, "dog": 4}, "test": {"cat": 2, "dog": 1}}


def test_nested_split_folders_and_one_without_labels(tmp_path: Path) -> None:
    for split, number in (("seg_train", 4), ("seg_test", 2)):
        touch(tmp_path, {f"{split}/{split}/{name}": number for name in ("cat", "dog")})
    touch(tmp_path, {"seg_pred/seg_pred": 6})
    with pytest.warns(UserWarning, match=r"left out 6 images in seg_pred, outside class folders"):
        assert counts(tmp_path) == {"train": {"cat": 4, "dog": 4}, "test": {"cat": 2, "dog": 2}}


def test_split_folders_that_wrap_another(tmp_path: Path) -> None:
    touch(tmp_path, {"train/images/cat": 3, "train/images/dog": 3, "val/images/cat": 1})
    assert counts(tmp_path) == {"train": {"cat": 3, "dog": 3}, "val": {"cat": 1}}


def test_a_test_folder_without_class_folders_is_left_out_and_named(tmp_path: Path) -> None:
    touch(tmp_path, {"train/cat": 3, "train/dog": 3, "test": 8})
    with pytest.warns(UserWarning, match=r"left out 8 images in test, outside class folders"):
        assert counts(tmp_path) == {"train": {"cat": 3, "dog": 3}}


def test_a_train_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, {"train": 3, "bus": 3})
    with pytest.raises(DamagedFile, match=r"train: 3 images outside any class folder.*CSV.*`folder_layout`=classes"):
        counts(tmp_path)
    assert counts(tmp_path, "classes") == {"train": {"bus": 3, "train": 3}}


def test_classes_with_the_names_of_splits(tmp_path: Path) -> None:
    touch(tmp_path, {"valid": 4, "invalid": 5})
    with pytest.raises(MissingData, match=r"no train split \(found: val in valid\); .*`folder_layout`=classes"):
        counts(tmp_path)
    assert counts(tmp_path, "classes") == {"train": {"invalid": 5, "valid": 4}}


def test_folders_beside_the_splits(tmp_path: Path) -> None:
    touch(tmp_path, {"train/cat": 3, "train/dog": 2, "val/cat": 1, "holdout/cat": 7})
    with pytest.raises(DamagedFile, match=r"holdout beside the splits train, val: set `folder_layout`=splits"):
        counts(tmp_path)
    with pytest.warns(UserWarning, match=r"left out 7 images in holdout"):
        assert counts(tmp_path, "splits") == {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1}}
    assert counts(tmp_path, "classes") == {"train": {"train": 5, "val": 1, "holdout": 7}}


def test_annotations_and_pictures_beside_the_splits_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, {"train/cat": 3, "train/dog": 2})
    touch(tmp_path, {"annotations/xml": 4}, ".xml")
    (tmp_path / "poster.png").touch()
    with pytest.warns(UserWarning, match=r"left out 1 images beside the splits; 4 files .*\(4 \.xml\)"):
        assert counts(tmp_path) == {"train": {"cat": 3, "dog": 2}}


def test_the_same_folders_in_every_class_are_doubtful(tmp_path: Path) -> None:
    touch(tmp_path, {f"{day}/{name}": 2 for day in ("monday", "tuesday") for name in ("cat", "dog")})
    with pytest.raises(DamagedFile, match=r"monday, tuesday hold the same folders \(cat, dog\).*`folder_layout`"):
        counts(tmp_path)
    assert counts(tmp_path, "classes") == {"train": {"monday": 4, "tuesday": 4}}
    tiny_imagenet = touch(tmp_path / "tiny", {"n01/images": 2, "n02/images": 2})
    assert counts(tiny_imagenet) == {"train": {"n01": 2, "n02": 2}}


def test_a_folder_around_the_data_is_named(tmp_path: Path) -> None:
    touch(tmp_path, {"photos/cat": 2, "photos/dog": 2})
    with pytest.raises(DamagedFile, match=rf"holds cat, dog; give `data_root`={tmp_path}/photos"):
        counts(tmp_path)


def test_images_without_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, {".": 3})
    with pytest.raises(DamagedFile, match=r"3 images outside any class folder; move them .* or give a CSV file"):
        counts(tmp_path)
    (tmp_path / "metadata.csv").touch()
    with pytest.raises(DamagedFile, match=rf"or give `data_root`={tmp_path}/metadata.csv if it names them"):
        counts(tmp_path)
    touch(tmp_path, {"cat": 2, "dog": 2})
    with pytest.raises(DamagedFile, match=r"0.png: this image lies outside any class folder \(3 of 7\)"):
        counts(tmp_path)


def test_what_is_left_out_is_counted_and_empty_classes_are_named(tmp_path: Path) -> None:
    touch(tmp_path, {"cat": 2, "dog": 2, "empty": 0, ".hidden": 3, "__MACOSX/cat": 1})
    touch(tmp_path, {"eel": 5}, ".svg")
    with pytest.warns(UserWarning, match=r"left out 5 files .*\(5 \.svg\); folders without images: \S+eel, \S+empty$"):
        assert counts(tmp_path) == {"train": {"cat": 2, "dog": 2}}


def test_nothing_is_said_of_a_clean_folder(tmp_path: Path) -> None:
    touch(tmp_path, {"train/cat": 1, "train/dog": 1, "dev/cat": 1, "dev/dog": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert counts(tmp_path).keys() == {"train", "val"}


def test_layout_splits_needs_a_split(tmp_path: Path) -> None:
    touch(tmp_path, {"cat": 1, "dog": 1})
    with pytest.raises(BadValue, match=r"no folder there is named like one \(found: cat, dog\)"):
        counts(tmp_path, "splits")
    with pytest.raises(UserError, match=r"unknown folder_layout 'class'; did you mean 'classes'"):
        load_dataset("folder", data_root=tmp_path, folder_layout="class")


def test_a_class_folder_that_cannot_be_listed_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, {"cat": 1, "dog": 1})
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if Path(path).name == "dog":
            raise OSError(5, "Input/output error", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MissingData, match=r"dog: this folder cannot be listed \(input/output error\)"):
        counts(tmp_path)
