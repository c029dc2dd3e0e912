"""Folds and parts of train: what is drawn, from whole files, by content and seed; test stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import load_dataset
from datamodules.dataset.holdout import cut_fold, keep_fraction, keep_per_class
from datamodules.dataset.loaded import Dataset
from datamodules.dataset.sheet import ReadOptions
from datamodules.dataset.split import Split
from tests.datamodules.test_holdout import contents, split_of
from tests.support.runs import save_classes, save_csv, save_photo
from transfer.errors import BadValue

LABELS = np.random.default_rng(0).choice(4, 103, p=[0.5, 0.3, 0.15, 0.05]).tolist()
NAMES = ("ape", "bee", "cat", "dog")
GROUPS = [f"patient{index // 5}" for index in range(103)]


def ids(split: Split) -> list[int]:
    return sorted(split.ids().tolist())


def counts(split: Split) -> list[int]:
    return split.class_counts(4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 60 photos with groups of three, of which the last 12 are test; one photo is there twice."""
    folder = tmp_path_factory.mktemp("photos")
    rows = [["image", "label", "split", "patient"]]
    for index in range(60):
        save_photo(folder / f"{index}.png", 0 if index == 1 else index, 60 + 120 * (index % 2 if index > 1 else 0))
        label = ("cat", "dog")[index % 2] if index > 1 else "cat"
        rows.append([f"{index}.png", label, "test" if index >= 48 else "train", f"p{index // 3}"])
    return save_csv(folder / "table.csv", rows)


def read(table: Path, **options: Any) -> Dataset:
    return load_dataset("folder", data_root=table, split_column="split", **options)


# Folds


@pytest.mark.parametrize("options", [{}, {"group_column": "patient"}])
def test_each_image_is_val_once_and_test_is_never_touched(photos: Path, options: dict[str, Any]) -> None:
    whole = read(photos, **options)
    folds = [read(photos, folds=4, fold=fold, draw=3, **options) for fold in range(4)]
    pool = sorted(ids(whole.split("train")) + ids(whole.split("val")))
    assert sorted(image for data in folds for image in ids(data.split("val"))) == pool
    for data in folds:
        assert sorted(ids(data.split("train")) + ids(data.split("val"))) == pool
        assert data.fingerprint["test"] == whole.fingerprint["test"]
        assert not set(ids(data.split("train"))) & set(ids(data.split("val")))  # not even the photo that is there twice
        if options:
            groups = [set(split.groups.tolist()) for split in data.splits.values() if split.groups is not None]
            assert len(groups) == 3 and not groups[0] & groups[1]
    again = read(photos, folds=4, fold=1, draw=3, **options)
    assert again.fingerprint == folds[1].fingerprint
    assert read(photos, folds=4, fold=1, draw=4, **options).fingerprint["val"] != folds[1].fingerprint["val"]


def test_a_fold_is_said_and_kept_as_held_out(photos: Path) -> None:
    data = read(photos, folds=4, fold=1, draw=3)
    assert data.describe().endswith("train 35, val 13 (fold 1 of 4, draw 3), test 12")
    assert {name: len(split.sources()) for name, split in data.held_out.items()} == {"val": 13}


def test_folds_are_stratified_and_the_same_whatever_the_order_of_the_images() -> None:
    split = split_of(LABELS)
    for draw in range(3):
        shares = np.stack([counts(cut_fold(split, 5, fold, draw, NAMES)[1]) for fold in range(5)])
        assert (shares.max(0) - shares.min(0) <= 1).all()
    shuffled = split.select(np.random.default_rng(1).permutation(103))
    assert contents(cut_fold(shuffled, 5, 2, 7, NAMES)[1]) == contents(cut_fold(split, 5, 2, 7, NAMES)[1])
    grouped = split_of(LABELS, groups=GROUPS)
    mixed = grouped.select(np.random.default_rng(1).permutation(103))
    assert contents(cut_fold(mixed, 5, 2, 7, NAMES)[1]) == contents(cut_fold(grouped, 5, 2, 7, NAMES)[1])


def test_images_with_several_labels_are_folded_too() -> None:
    labels = np.random.default_rng(0).random((40, 3)) < 0.4
    split = split_of(labels.astype(float).tolist())
    parts = [contents(cut_fold(split, 4, fold, 0, NAMES[:3])[1]) for fold in range(4)]
    assert sorted(image for part in parts for image in part) == list(range(40)) and {len(part) for part in parts} == {
        10
    }


def test_what_cannot_be_folded_is_refused_with_what_can(photos: Path) -> None:
    with pytest.raises(BadValue, match=r"`folds`=40 \(allowed: 2 to 24: the largest class has that many images\)"):
        read(photos, folds=40, fold=0)
    with pytest.raises(BadValue, match=r"`folds`=40 \(allowed: 2 to 16: that many groups\)"):
        read(photos, folds=40, fold=0, group_column="patient")


def test_a_class_of_one_image_is_named(tmp_path: Path) -> None:
    root = save_classes(tmp_path, {"train/cat": 6, "train/dog": 6, "train/owl": 1, "val/cat": 2, "test/dog": 2})
    with pytest.warns(UserWarning, match="a single image count as wrong in cross-validation.*: owl"):
        load_dataset("folder", data_root=root, folds=2, fold=0)


# Parts of train


def test_so_many_of_each_class_remain_and_more_of_them_hold_the_fewer() -> None:
    split = split_of(LABELS)
    three, five = (keep_per_class(split, count, 0, NAMES) for count in (3, 5))
    assert counts(three) == [3, 3, 3, 3] and counts(five) == [5, 5, 5, 5]
    assert contents(three) < contents(five)
    assert contents(keep_per_class(split, 3, 1, NAMES)) != contents(three)
    shuffled = split.select(np.random.default_rng(1).permutation(103))
    assert contents(keep_per_class(shuffled, 3, 0, NAMES)) == contents(three)


def test_a_class_with_fewer_keeps_all_and_is_named() -> None:
    split, available = split_of(LABELS), np.bincount(LABELS)
    assert available[3] < 20 <= available[2] or available[2] < 20
    with pytest.warns(UserWarning, match=rf"fewer than 20 training images of .* classes.*dog \({available[3]}\)"):
        assert counts(keep_per_class(split, 20, 0, NAMES)) == np.minimum(available, 20).tolist()


def test_a_share_of_each_class_remains_and_at_least_one_image() -> None:
    split, available = split_of(LABELS), np.bincount(LABELS)
    half = keep_fraction(split, 0.5, 0)
    assert len(half) == round(0.5 * 103)
    assert (np.abs(np.array(counts(half)) - available / 2) < 1).all()
    assert counts(keep_fraction(split, 0.001, 0)) == [1, 1, 1, 1]
    assert contents(keep_fraction(split, 1.0, 0)) == set(range(103))
    assert contents(keep_fraction(split, 0.5, 1)) != contents(half)


def test_every_label_remains_where_images_have_several() -> None:
    labels = np.zeros((60, 3))
    labels[:, 0] = np.arange(60) % 2  # never alone: each image that has it has a rarer one, too
    labels[1::2, 1] = 1
    labels[1, 1], labels[1, 2] = 0, 1
    labels[::2, 2] = np.arange(30) < 5
    for draw in range(20):
        part = keep_fraction(split_of(labels.tolist()), 0.02, draw)
        assert (part.labels.numpy().sum(0) >= 1).all() and len(part) <= 4


def test_groups_are_kept_whole_but_for_one_of_each_class() -> None:
    split = split_of([index % 2 for index in range(100)], groups=[f"g{index // 10}" for index in range(100)])
    for part in (keep_per_class(split, 12, 0, NAMES[:2]), keep_fraction(split, 0.24, 0)):
        assert part.groups is not None and counts(part)[:2] == [12, 12]
        assert sorted(np.unique(part.groups, return_counts=True)[1].tolist()) == [4, 10, 10]


def test_only_train_is_cut_and_it_is_said(photos: Path) -> None:
    whole, part = read(photos), read(photos, per_class=4, draw=2)
    for name in ("val", "test"):
        assert part.fingerprint[name] == whole.fingerprint[name]
    assert part.fingerprint["train"] != whole.fingerprint["train"]
    assert part.class_counts["train"] == [4, 4]
    assert f"train 8 (at most 4 per class of {len(whole.split('train'))}, draw 2)" in part.describe()
    assert read(photos, per_class=4, draw=2).fingerprint == part.fingerprint
    assert "train 4 (0.1 of 36, draw 0)" in read(photos, folds=4, fold=0, fraction=0.1).describe()


def test_a_part_of_train_and_val_together() -> None:
    data = load_dataset("digits", per_class=7, train_on="trainval")
    assert data.class_counts["train"] == [7] * 10 and data.split_sizes == {"train": 70, "test": 360}


def test_a_published_dataset_is_whole_before_it_is_cut() -> None:
    data = load_dataset("digits", fraction=0.01)
    assert data.split_sizes == {"train": 13, "val": 180, "test": 360}
    folded = load_dataset("digits", folds=3, fold=2)
    assert folded.split_sizes == {"train": 958, "val": 479, "test": 360}


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1, "fold": 0}, r"`folds`=1 \(allowed: at least 2\)"),
        ({"folds": 5}, r"`fold`=None with `folds`=5 \(allowed: 0 to 4\)"),
        ({"folds": 5, "fold": 5}, r"`fold`=5 with `folds`=5 \(allowed: 0 to 4\)"),
        ({"folds": 5, "fold": -1}, r"`fold`=-1 with `folds`=5"),
        ({"fold": 1}, r"`fold`=1 with `folds`=None \(allowed: only with `folds`\)"),
        ({"folds": 5, "fold": 0, "train_on": "trainval"}, "`folds`=5 with `train_on`=trainval"),
        ({"per_class": 0}, r"`per_class`=0 \(allowed: at least 1\)"),
        ({"fraction": 0.0}, r"`fraction`=0.0 \(allowed: above 0, at most 1\)"),
        ({"fraction": 1.5}, "`fraction`=1.5"),
        ({"fraction": 0.5, "per_class": 1}, "`per_class`=1 with `fraction`=0.5"),
        ({"multilabel": True, "per_class": 1}, "`per_class`=1 with `multilabel`=True"),
        ({"draw": -1}, r"`draw`=-1 \(allowed: 0 to 4294967295\)"),
        ({"stream": True, "fraction": 0.5}, "`stream`=True with `folds`, `per_class` or `fraction`"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        ReadOptions(**options)


def test_joined_splits_know_what_they_have_hashed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_one, hashed = Split._content, []

    def content(split: Split, index: int) -> bytes:
        hashed.append(index)
        return read_one(split, index)

    monkeypatch.setattr(Split, "_content", content)
    data = read(photos, folds=2, fold=0)
    assert len(hashed) == 48  # to hold val out, and not again for the folds
    assert data.split("val").fingerprint() and data.split("train").fingerprint() and len(hashed) == 48
