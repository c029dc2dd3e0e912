"""What is held out of train: about the asked share of each class, by content, without moving images that were there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import load_dataset
from datamodules.dataset.holdout import hold_out, hold_out_exactly
from datamodules.dataset.loaded import Dataset
from datamodules.dataset.split import Split
from datamodules.reading.tables import encoded_images
from transfer.errors import UserError


class Numbers:
    """A table whose images are told apart by a number that counts from `start`, as if they were streamed."""

    def __init__(self, start: int, size: int) -> None:
        self.start, self.size = start, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> dict[str, Any]:
        raise AssertionError("a cut needs no image")

    def identity(self, row: int) -> bytes:
        return str(self.start + row).encode()

    def followed_by(self, other: Any) -> Numbers:
        raise AssertionError


def split_of(labels: list[int] | list[list[int]], start: int = 0, groups: list[str] | None = None) -> Split:
    values = torch.tensor(labels, dtype=torch.float32 if isinstance(labels[0], list) else torch.int64)
    table = Numbers(start, len(labels))
    return Split("x train", table, np.arange(len(labels)), values, None if groups is None else np.array(groups))


def contents(split: Split) -> set[int]:
    return set(split.rows.tolist())


def cut(split: Split, share: float = 0.15) -> dict[str, Split]:
    """Test and val of the same size, as for a folder."""
    rest, test = hold_out(split, share, "test")
    train, val = hold_out(rest, share / (1 - share), "val")
    return {"train": train, "val": val, "test": test}


def test_adding_twenty_photos_takes_none_out_of_train() -> None:
    """280 photos of four classes and 20 more of them, for a hundred sets of contents: only a bound moves an image."""
    moved = []
    for start in range(0, 100_000, 1_000):
        labels = [index % 4 for index in range(300)]
        before, after = cut(split_of(labels[:280], start)), cut(split_of(labels, start))
        moved.append(len(contents(before["train"]) & (contents(after["val"]) | contents(after["test"]))))
        assert len(contents(before["val"]) & contents(after["test"])) <= 1
    assert max(moved) <= 1 and sum(moved) <= 5


def test_sizes_are_near_the_share_and_every_class_is_in_every_split() -> None:
    sizes = []
    for start in range(0, 50_000, 1_000):
        parts = cut(split_of([index % 4 for index in range(280)], start))
        assert all(min(part.class_counts(4)) >= 1 for part in parts.values())
        assert sum(map(len, parts.values())) == len(set().union(*map(contents, parts.values()))) == 280
        sizes.append([len(parts["val"]), len(parts["test"])])
        for part in (parts["val"], parts["test"]):  # of 10.5 of each class at least half and at most twice as many
            assert min(part.class_counts(4)) >= 5 and max(part.class_counts(4)) <= 22
    # 42 are expected; a binomial's standard deviation is 6.0, that of the mean of fifty 0.85.
    assert np.abs(np.mean(sizes, axis=0) - 42).max() < 3 * 0.85 and np.std(sizes) < 9


@pytest.mark.parametrize("exactly", [False, True])
def test_the_order_of_the_rows_does_not_matter(exactly: bool) -> None:
    labels = [index % 3 for index in range(90)]
    shuffled = np.random.default_rng(0).permutation(90)
    first, second = (
        hold_out_exactly(split, 9, "val") if exactly else hold_out(split, 0.1, "val")
        for split in (split_of(labels), split_of(labels).select(shuffled))
    )
    assert contents(first[1]) == contents(second[1]) and contents(first[0]) == contents(second[0])
    assert [len(part) for part in first] != [90, 0]


def test_the_exact_cut_is_proportional_and_spares_the_last_image() -> None:
    split = split_of([0] * 60 + [1] * 30 + [2])
    rest, held = hold_out_exactly(split, 9, "val")
    assert held.class_counts(3) == [6, 3, 0] and rest.class_counts(3) == [54, 27, 1]
    assert not contents(held) & contents(rest)
    with pytest.raises(UserError, match="x train: cannot hold out 89 of 91 images in 3 classes"):
        hold_out_exactly(split, 89, "val")


def test_a_class_with_one_image_stays_in_train_and_nothing_to_spare_is_an_error() -> None:
    for start in range(0, 20_000, 1_000):
        rest, held = hold_out(split_of([0] * 40 + [1], start), 0.4, "val")
        assert rest.class_counts(2)[1] == 1 and held.class_counts(2)[0] > 0
    with pytest.raises(UserError, match="x train: cannot hold out one of 2 images for test and leave one of each"):
        hold_out(split_of([0, 1]), 0.1, "test")
    assert len(hold_out(split_of([0, 0, 1]), 0.01, "test")[1]) == 1


def test_every_label_keeps_a_training_image_among_several_labels() -> None:
    """A label that stands only beside rarer ones, as `hub` here, would else lose all its images."""
    rows = [[1, 0, 0, 0, 0]] * 30
    for mate in (1, 2, 3):
        rows += [[int(k in (mate, 4)) for k in range(5)], [int(k == mate) for k in range(5)]]
    for start in range(0, 30_000, 1_000):
        parts = cut(split_of(rows, start), 0.3)
        assert min(parts["train"].class_counts(5)) >= 1
        assert sum(map(len, parts.values())) == 36


def test_a_group_lies_on_one_side_even_where_classes_are_mixed_in_it() -> None:
    groups = [f"p{index // 4}" for index in range(80)]
    for start in range(0, 10_000, 1_000):
        split = split_of([index % 3 for index in range(80)], start, groups)
        sides = [set(part.groups.tolist()) for part in cut(split).values()]  # type: ignore[union-attr]  # has groups
        assert sum(map(len, sides)) == len(set().union(*sides)) == 20 and all(sides)
    with pytest.raises(UserError, match="2 different images or groups"):
        hold_out(split_of([0, 0, 1, 1], groups=["a", "a", "b", "b"]), 0.3, "val")


def test_equal_images_lie_on_one_side() -> None:
    split = split_of([0] * 40)
    twice = split.select(np.repeat(np.arange(40), 2))
    rest, held = hold_out(twice, 0.2, "val")
    assert len(held) and len(rest) and not contents(rest) & contents(held)


def test_ids_are_those_of_pixels_for_small_pictures_without_losses(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    raw = b"P6\n32 32\n255\n" + pixels.tobytes()
    files = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.jpg", tmp_path / "d.jpg"]
    for file, options in zip(files, ({}, {"compress_level": 0}, {"quality": 90}, {"quality": 91}), strict=True):
        Image.fromarray(pixels).save(file, **options)
    table = encoded_images([(raw, None), *((None, str(file)) for file in files), (b"junk", None)])
    ids = Split("x", table, np.arange(6), torch.zeros(6, dtype=torch.int64)).ids()
    assert ids.dtype == np.uint64 and ids[0] == ids[1] == ids[2] and len(np.unique(ids)) == 4


def test_deep_pictures_are_told_apart_by_values_that_would_be_equal_in_8_bits(tmp_path: Path) -> None:
    for index in range(60):
        deep = np.full((8, 8), index, np.uint16)
        path = tmp_path / ("dark", "light")[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(deep).save(path)
    assert load(tmp_path).split_sizes.keys() == {"train", "val", "test"}


def test_ids_and_fingerprint_follow_a_selection() -> None:
    split = split_of([index % 2 for index in range(10)])
    fresh = split_of([index % 2 for index in range(10)]).select([3, 1])
    ids, whole = split.ids(), split.fingerprint()
    part = split.select([3, 1])
    assert part.ids().tolist() == [ids[3], ids[1]] == fresh.ids().tolist()
    assert part.fingerprint() == fresh.fingerprint() != whole and len(np.unique(ids)) == 10


# --- from files


def save_table(folder: Path, header: str, rows: list[str], size: int = 28) -> Path:
    for index in range(size):
        pixels = np.random.default_rng(index).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "table.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "table.csv"


def load(path: Path, **options: object) -> Dataset:
    return load_dataset("folder", data_root=path, **options)  # type: ignore[arg-type]  # as a user may


def test_patients_of_a_table_stay_together(tmp_path: Path) -> None:
    rows = [f"{index}.png,{'cat' if index < 14 else 'dog'},p{index // 4}" for index in range(28)]
    data = load(save_table(tmp_path, "image,label,patient", rows), group_column="patient")
    sides = {name: set(split.groups.tolist()) for name, split in data.splits.items()}  # type: ignore[union-attr]
    assert set(sides) == {"train", "val", "test"} and all(sides.values())
    assert sorted(group for side in sides.values() for group in side) == [f"p{number}" for number in range(7)]
    assert all(len(split) % 4 == 0 for split in data.splits.values())
    # Of fourteen images 1.4 are expected, and a patient has four: one patient, rather than none.
    assert min(map(min, data.class_counts.values())) > 0
    joined = load(tmp_path / "table.csv", group_column="patient", train_on="trainval")
    assert set(joined.splits["train"].groups.tolist()) == sides["train"] | sides["val"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("column", "rows", "message"),
    [
        ("patient", ["0.png,a,train,p", "1.png,b,train,q", "2.png,a,test,p"], r"1 groups are in test, too \(p\)"),
        ("patient", ["0.png,a,train,p", "1.png,b,train,"], "row 1: no value in 'patient'"),
        ("patients", ["0.png,a,train,p", "1.png,b,train,q"], "no column 'patients'; did you mean 'patient'"),
    ],
)
def test_groups_that_cannot_be_kept_are_named(tmp_path: Path, column: str, rows: list[str], message: str) -> None:
    path = save_table(tmp_path, "image,label,split,patient", rows, 3)
    with pytest.raises(UserError, match=message):
        load(path, group_column=column)
    with pytest.raises(UserError, match="digits has fixed splits; `group_column` is for dataset 'folder'"):
        load_dataset("digits", group_column="patient")


def test_test_has_a_share_of_its_own(tmp_path: Path) -> None:
    path = save_table(tmp_path, "image,label", [f"{index}.png,{'ab'[index % 2]}" for index in range(200)], 200)
    sizes = load(path, test_fraction=0.4, val_fraction=0.1).split_sizes
    assert abs(sizes["test"] - 80) < 3 * 6.9 and abs(sizes["val"] - 20) < 3 * 4.2 and sum(sizes.values()) == 200
    with pytest.raises(UserError, match=r"`test_fraction`=0.5 \(allowed: above 0, below 0.5\)"):
        load(path, test_fraction=0.5)


def test_classes_that_val_lacks_are_named(tmp_path: Path) -> None:
    rows = ["0.png,cat,train", "1.png,dog,train", "2.png,eel,train", "3.png,cat,val", "4.png,eel,val"]
    with pytest.warns(UserWarning, match="no val image of 1 of 3 classes: dog"):
        data = load(save_table(tmp_path, "image,label,split", rows, 5))
    assert data.class_counts == {"train": [1, 1, 1], "val": [1, 0, 1]}
    rows[1] = "1.png,cat,train"
    rows[3] = "3.png,dog,val"
    with pytest.raises(UserError, match="no training image of 'dog'"):
        load(save_table(tmp_path, "image,label,split", rows, 5))
