"""The user's own images, in every layout and with everything that goes wrong in one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import load_dataset
from datamodules.datamodule import DataModule
from datamodules.dataset.loaded import Dataset
from tests.support.data import PREPROCESSING
from transfer.errors import UserError
from transfer.images.decode import decode_image


@pytest.fixture(autouse=True)
def _cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def save_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_classes(root: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    for position, (name, count) in enumerate(counts.items()):
        for index in range(count):
            save_image(root / name / f"{index}{suffix}", seed=1000 * position + index)
    return root


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset("folder", data_root=root, **options)


def loaders(data: Dataset, **options: Any) -> DataModule:
    return DataModule(data, PREPROCESSING, num_workers=0, **options)


def save_csv(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def test_class_folders_are_cut_into_three(tmp_path: Path) -> None:
    data = load(save_classes(tmp_path, {"cat": 30, "dog": 20}))
    assert data.class_names == ("cat", "dog") and data.num_classes == 2
    assert np.sum(list(data.class_counts.values()), axis=0).tolist() == [30, 20]
    assert min(map(min, data.class_counts.values())) >= 1 and data.split_sizes["train"] > 30
    again = load(tmp_path)
    assert again.fingerprint == data.fingerprint
    files = [split.image_name(i) for split in data.splits.values() for i in range(len(split))]
    assert len(files) == len(set(files)) == 50


def test_a_line_names_the_classes_and_counts_the_splits(tmp_path: Path) -> None:
    data = load(save_classes(tmp_path / "cut", {"cat": 30, "dog": 20}))
    train, val, test = data.split_sizes.values()
    assert train + val + test == 50 and data.describe() == (
        f"folder: 2 classes (cat, dog), images: train {train}, val {val} (held out of train), test {test} (held out of"
        " train)"
    )
    for split, count in (("train", 2), ("val", 1)):
        save_classes(tmp_path / "many" / split, {str(number): count for number in range(1, 21)})
    assert load(tmp_path / "many").describe() == (
        "folder: 20 classes (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..., 20), images: train 40, val 20"
    )


def test_class_folders_sort_as_numbers(tmp_path: Path) -> None:
    data = load(save_classes(tmp_path, {str(number): 3 for number in range(12, 0, -1)}))
    assert data.class_names == tuple(str(number) for number in range(1, 13))
    split = data.splits["train"]
    for index in range(len(split)):
        assert Path(split.image_name(index)).parent.name == data.class_names[split.labels[index]]


def test_official_splits_by_alias_are_kept(tmp_path: Path) -> None:
    for folder, count in {"Training": 8, "dev": 3, "testing": 2}.items():
        save_classes(tmp_path / folder, {"a": count, "b": count})
    assert load(tmp_path).split_sizes == {"train": 16, "val": 6, "test": 4}


def test_val_is_cut_but_test_is_never_made_up(tmp_path: Path) -> None:
    save_classes(tmp_path / "train", {"a": 10, "b": 10})
    save_classes(tmp_path / "test", {"a": 2, "b": 2})
    data = load(tmp_path)
    assert data.split_sizes["test"] == 4 and list(data.held_out) == ["val"]
    assert np.add(data.class_counts["train"], data.class_counts["val"]).tolist() == [10, 10]
    other = tmp_path / "other"
    save_classes(other / "train", {"a": 5, "b": 5})
    save_classes(other / "val", {"a": 1, "b": 1})
    data = load(other)
    assert data.split_sizes == {"train": 10, "val": 2}
    with pytest.raises(UserError, match=r"folder has no test split here \(it has: train, val\)"):
        loaders(data).test_dataloader()


def test_every_class_keeps_a_training_image(tmp_path: Path) -> None:
    data = load(save_classes(tmp_path, {"many": 50, "one": 1}), val_fraction=0.3)
    assert data.class_counts["train"][1] == 1


def test_other_files_are_ignored_and_extensions_have_any_case(tmp_path: Path) -> None:
    save_classes(tmp_path, {"a": 6, "b": 6}, suffix=".JPG")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "a" / ".hidden.png").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.txt").write_text("hello")
    assert sum(load(tmp_path).split_sizes.values()) == 12


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no images in class folders; expected"),
        ({"a": 20}, "at least 2 classes are needed, found only 'a'"),
        ({"a": 1}, "at least 2 classes are needed"),
        ({"a": 1, "b": 1}, "cannot hold out one of 2 images for test"),
    ],
)
def test_too_little_data(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(save_classes(tmp_path, counts))


def test_layouts_that_leave_open_what_is_meant(tmp_path: Path) -> None:
    save_classes(tmp_path / "mixed", {"train/a": 3, "train/b": 3, "holdout/a": 3})
    with pytest.raises(UserError, match="mixed: holdout beside the splits train"):
        load(tmp_path / "mixed")
    save_classes(tmp_path / "twice", {"train/a": 3, "train/b": 3, "val/a": 1, "dev/a": 1})
    with pytest.raises(UserError, match="two folders for one split: dev, train, val"):
        load(tmp_path / "twice")
    save_classes(tmp_path / "no_train", {"val/a": 3, "val/b": 3})
    with pytest.raises(UserError, match="no train split"):
        load(tmp_path / "no_train")
    save_classes(tmp_path / "loose", {"a": 3, "b": 3})
    save_image(tmp_path / "loose" / "x.png")
    with pytest.raises(UserError, match=r"x.png: this image lies outside any class folder"):
        load(tmp_path / "loose")
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="'folder' needs `data_root`"):
        load_dataset("folder")


def test_class_only_in_test_is_named(tmp_path: Path) -> None:
    save_classes(tmp_path / "train", {"a": 4, "b": 4})
    save_classes(tmp_path / "test", {"a": 1, "new": 1})
    with pytest.raises(UserError, match="no training image of 'new'"):
        load(tmp_path)


@pytest.fixture
def ugly(tmp_path: Path) -> Path:
    save_classes(tmp_path, {"a": 10, "b": 10})
    (tmp_path / "a" / "empty.jpg").touch()
    (tmp_path / "b" / "text.jpg").write_text("not an image at all")
    content = save_image(tmp_path / "b" / "cut.jpg").read_bytes()
    (tmp_path / "b" / "cut.jpg").write_bytes(content[: len(content) // 2])
    return tmp_path


def test_bad_images_are_all_named(ugly: Path) -> None:
    with pytest.raises(UserError, match="3 images that cannot be read") as caught:
        load(ugly)
    text = str(caught.value)
    assert "empty.jpg: empty (0 bytes)" in text and "text.jpg: not an image" in text
    assert "cut.jpg: " in text and "`on_bad_image`=skip" in text


def test_bad_images_can_be_skipped(ugly: Path) -> None:
    with pytest.warns(UserWarning, match="3 images that cannot be read"):
        data = load(ugly, on_bad_image="skip")
    assert sum(data.split_sizes.values()) == 20
    assert sorted(Path(bad.name).name for bad in data.skipped) == ["cut.jpg", "empty.jpg", "text.jpg"]


def test_at_most_ten_bad_images_are_listed(tmp_path: Path) -> None:
    save_classes(tmp_path, {"a": 10, "b": 10})
    for index in range(13):
        (tmp_path / "a" / f"bad{index}.jpg").touch()
    with pytest.raises(UserError, match=r"13 images that cannot be read(?s:.*)\.\.\. and 3 more") as caught:
        load(tmp_path)
    assert str(caught.value).count("empty (0 bytes)") == 10


def test_csv_with_relative_paths_and_split_column(tmp_path: Path) -> None:
    rows = []
    for index in range(12):
        save_image(tmp_path / "images" / f"{index}.png", seed=index)
        split = "train" if index < 8 else ("valid" if index < 10 else "test")
        rows.append([f"images/{index}.png", "10" if index % 2 else "2", split])
    data = load(save_csv(tmp_path / "labels.csv", ["path", "label", "split"], rows))
    assert data.class_names == ("2", "10")
    assert data.class_counts == {"train": [4, 4], "val": [1, 1], "test": [1, 1]}
    images, _ = next(iter(loaders(data).val_dataloader()))
    expected = loaders(data).eval_transform(image=decode_image(tmp_path / "images" / "8.png"))["image"]
    assert np.array_equal(images[0].numpy(), expected)


def test_csv_with_other_column_names_and_a_byte_order_mark(tmp_path: Path) -> None:
    for index in range(20):
        save_image(tmp_path / f"{index}.png", seed=index)
    body = "\n".join(["picture,kind", *(f"{index}.png,{'ab'[index % 2]}" for index in range(20))])
    (tmp_path / "t.csv").write_text("\ufeff" + body, encoding="utf-8")
    with pytest.raises(UserError, match=r"none of the columns picture, kind .* `image_column`"):
        load(tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"no column 'pictures'; did you mean 'picture'.*`image_column`"):
        load(tmp_path / "t.csv", image_column="pictures", label_column="kind")
    assert load(tmp_path / "t.csv", image_column="picture", label_column="kind").class_names == ("a", "b")


def test_csv_errors_name_row_and_value(tmp_path: Path) -> None:
    table = [["0.png", "a"], ["1.png", ""], ["2.png", "b"]]
    with pytest.raises(UserError, match=r"t.csv train row 1: no label"):
        load(save_csv(tmp_path / "t.csv", ["path", "label"], table))
    with pytest.raises(UserError, match=r"t.csv row 0: split 'holdout' in column 'split' is none of train"):
        load(save_csv(tmp_path / "t.csv", ["path", "label", "split"], [["0.png", "a", "holdout"]]))
    with pytest.raises(UserError, match=r"t.csv line 3: 1 values for 2 columns"):
        load(save_csv(tmp_path / "t.csv", ["path", "label"], [["0.png", "a"], ["1.png"]]))
    with pytest.raises(UserError, match=r"must be a .csv, .tsv, .txt or .parquet file"):
        load(save_image(tmp_path / "x.png"))


def test_csv_with_a_missing_file(tmp_path: Path) -> None:
    for index in range(10):
        save_image(tmp_path / f"{index}.png", seed=index)
    rows = [[f"{index}.png", "ab"[index % 2]] for index in range(10)] + [["gone.png", "a"]]
    table = save_csv(tmp_path / "t.csv", ["path", "label"], rows)
    with pytest.raises(UserError, match=r"1 image that cannot be read:\n.*gone.png: no such file"):
        load(table)


def test_multilabel_csv_gives_multi_hot(tmp_path: Path) -> None:
    combinations = ["a", "b", "a|c", "b|c", ""] * 8
    rows = []
    for index, labels in enumerate(combinations):
        save_image(tmp_path / f"{index}.png", seed=index)
        rows.append([f"{index}.png", labels])
    data = load(save_csv(tmp_path / "t.csv", ["path", "label"], rows), multilabel=True)
    assert data.class_names == ("a", "b", "c")
    assert np.sum(list(data.class_counts.values()), axis=0).tolist() == [16, 16, 16]
    _, labels = next(iter(loaders(data).val_dataloader()))
    assert labels.dtype == torch.float32 and labels.shape == (data.split_sizes["val"], 3)


def test_save_to_disk_and_parquet(tmp_path: Path) -> None:
    pixels = [np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8) for i in range(20)]
    table = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(p) for p in pixels], "label": [i % 2 for i in range(20)]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["z", "a"])}),
    )
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "table.parquet")
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(tmp_path / "both")
    saved, parquet = load(tmp_path / "saved"), load(tmp_path / "table.parquet")
    assert saved.class_names == parquet.class_names == ("z", "a")
    assert saved.fingerprint == parquet.fingerprint
    assert sum(saved.split_sizes.values()) == 20 and saved.split_sizes.keys() == {"train", "val", "test"}
    assert load(tmp_path / "both").split_sizes == {"train": 20, "val": 20}


def test_control_characters_in_class_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    shown = load_dataset("folder", data_root=save_classes(tmp_path, {"cat": 6, "dog\x1b[2J": 6})).describe()
    assert "(cat, dog\\x1b[2J)" in shown and "\x1b" not in shown
