"""Streamed data: the same images and labels as when they are loaded whole, each asked for once, equal for all ranks."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from datamodules import build_datamodule, load_dataset
from datamodules.datamodule import DataModule
from datamodules.dataset.split import Split
from datamodules.loading.samplers import LANES, StreamSampler
from datamodules.loading.workers import count_workers
from datamodules.reading import streaming
from datamodules.reading.streaming import StreamedTable, _RowGroup, for_training
from datamodules.sheets import flowers
from datamodules.sheets.cifar import CIFAR10
from tests.support.data import PREPROCESSING
from transfer.errors import UserError

NUM_TRAIN, NUM_TEST, GROUP = 203, 37, 10


class Streamed(CIFAR10):
    num_examples: ClassVar = {"train": NUM_TRAIN, "test": NUM_TEST}
    images_per_class: ClassVar = {}
    official_names = ()
    val_size = 20


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two train files and a test file in small row groups, sorted by class; each image has its own grey."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "data" / Streamed.copies[0].id / "plain_text"
    folder.mkdir(parents=True)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})

    def write(name: str, numbers: range, count: int) -> None:
        columns = {
            "img": [{"bytes": png(number), "path": f"{number}.png"} for number in numbers],
            "label": [number * 10 // count for number in numbers],
        }
        table = datasets.Dataset.from_dict(columns, features=features)
        pq.write_table(table.data.table, folder / name, row_group_size=GROUP)

    write("train-00000-of-00002.parquet", range(100), NUM_TRAIN)
    write("train-00001-of-00002.parquet", range(100, NUM_TRAIN), NUM_TRAIN)
    write("test-00000-of-00001.parquet", range(NUM_TEST), NUM_TEST)
    return tmp_path / "data"


def build(root: Path, stream: bool = True, **options: object) -> DataModule:
    options = {"num_workers": 0, "batch_size": 8, "data_root": root, "stream": stream, **options}
    data = build_datamodule(Streamed(), preprocessing=PREPROCESSING, **options)
    data.setup()
    return data


def greys(loader: object) -> list[tuple[int, int]]:
    """(grey, label) of every image that a loader gives, in its order."""
    return [
        (int(image[16, 16, 0]), int(label))
        for images, labels in loader
        for image, label in zip(images, labels, strict=True)
    ]


def test_streamed_splits_hold_the_same_images_as_loaded_ones(root: Path) -> None:
    loaders, loaded_loaders = build(root), build(root, stream=False)
    streamed, loaded = loaders.dataset, loaded_loaders.dataset
    assert streamed.split_sizes == loaded.split_sizes == {"train": 183, "val": 20, "test": 37}
    assert streamed.class_names == loaded.class_names and streamed.class_counts == loaded.class_counts
    # Val is cut by place, not by content: other images, but all of them are the official train's.
    both = [*greys(loaders.val_dataloader()), *greys(loaders.calibration_dataloader())]
    assert set(both) <= {pair for split in ("train", "val") for pair in greys(loaded_loaders.eval_dataloader(split))}
    assert sorted(greys(loaders.test_dataloader())) == [(n, n * 10 // NUM_TEST) for n in range(NUM_TEST)]
    train = greys(loaders.train_dataloader())
    assert len(train) == len(set(train)) == 176  # 22 whole batches
    labels = streamed.splits["train"]
    assert set(train) <= set(zip(labels.rows.tolist(), labels.labels.tolist(), strict=True))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_order_does_not_depend_on_the_number_of_workers(root: Path, num_workers: int) -> None:
    assert greys(build(root).train_dataloader()) == greys(build(root, num_workers=num_workers).train_dataloader())


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """How often each row group is fetched from now on."""
    reads: Counter[tuple[int, int]] = Counter()
    read = pq.ParquetFile.read_row_group

    def count(self: pq.ParquetFile, index: int, columns: list[str]) -> object:
        reads[self.metadata.num_rows, index] += 1
        return read(self, index, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", count)
    return reads


def test_an_epoch_reads_each_row_group_about_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    data = build(root)
    assert reads == {}  # labels and footers alone
    greys(data.train_dataloader())
    assert len(reads) == 21 and sum(reads.values()) <= 21 + LANES


@pytest.mark.parametrize("num_workers", [0, 2, 8])
def test_groups_are_fetched_about_once_when_windows_are_small_and_rows_are_held_out(
    num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of a large set and the memory of its workers, one after the other, without any file."""
    num_groups, size, batch = 800, 100, 64
    monkeypatch.setattr(streaming, "_WINDOW_BYTES", 10 * LANES * size)
    table = StreamedTable([_RowGroup("file", index, size, size, b"") for index in range(num_groups)], "img")
    assert table.window() == 10
    kept = np.flatnonzero(np.random.default_rng(0).permutation(len(table)) % 10)
    split = Split("big", table, kept, torch.zeros(len(kept)))
    order = np.array([i for i, _ in StreamSampler(table.group_of(kept), table.window(), batch, 0)])
    batches = kept[order[: len(order) // batch * batch]].reshape(-1, batch)
    fetched = []

    class File:
        def read_row_group(self, index: int, columns: list[str]) -> dict[str, pa.ChunkedArray]:
            fetched.append(index)
            return {"img": pa.chunked_array([[b""] * size])}

    monkeypatch.setattr(streaming, "open_parquet", lambda file: File())
    most = 0
    for worker in range(max(num_workers, 1)):
        own = for_training(split, num_workers).table
        for row in batches[worker :: max(num_workers, 1)].ravel():
            own[int(row)]
            most = max(most, len(own._held))
    assert num_groups <= len(fetched) <= 1.1 * num_groups
    assert most <= LANES // max(num_workers, 1) * 12


def test_val_images_are_fetched_in_the_first_validation_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = build(root)
    loader = data.val_dataloader()
    first = greys(loader)
    reads = count_reads(monkeypatch)
    assert greys(loader) == first and reads == {}


def test_another_epoch_has_another_order_and_a_resumed_one_goes_on(root: Path) -> None:
    loader = build(root).train_dataloader()
    first = greys(loader)
    loader.sampler.set_epoch(1)
    assert greys(loader) != first
    resumed = build(root).train_dataloader()
    resumed.load_state_dict({"epoch": 0, "batches": 5})
    assert greys(resumed) == first[5 * 8 :]


@pytest.mark.parametrize("stream", [True, False])
def test_the_order_of_a_test_is_known(root: Path, stream: bool) -> None:
    data = build(root, stream=stream)
    assert [grey for grey, _ in greys(data.test_dataloader())] == data.test_order("test", 1).tolist()
    assert sorted(data.test_order("test", 3)) == list(range(NUM_TEST))
    assert [grey for grey, _ in greys(data.eval_dataloader("val"))] != [
        grey for grey, _ in greys(data.test_dataloader())
    ]
    assert len(data.test_order("val", 1)) == len(data.dataset.split("val"))


def test_fingerprints_follow_the_files(root: Path) -> None:
    before = build(root).dataset.fingerprint
    assert before == build(root).dataset.fingerprint and all(value.startswith("streamed-") for value in before.values())
    file = next(root.rglob("test-*.parquet"))
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file, row_group_size=GROUP)
    changed = Streamed.num_examples | {"test": NUM_TEST - 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Streamed, "num_examples", changed)
        after = build(root).dataset.fingerprint
    assert {name for name in before if before[name] != after[name]} == {"test"}


def test_a_bad_image_is_named_or_left_out_of_its_batch(root: Path) -> None:
    file = next(root.rglob("test-*.parquet"))
    table = datasets.Dataset.from_parquet(str(file), cache_dir=str(root / "hf")).cast_column(
        "img", datasets.Image(decode=False)
    )
    broken = table.map(
        lambda row, index: {"img": {"bytes": b"junk" if index == 3 else row["img"]["bytes"], "path": None}},
        with_indices=True,
    )
    pq.write_table(broken.data.table.combine_chunks(), file, row_group_size=GROUP)
    with pytest.raises(UserError, match="test row 3: not an image"):
        greys(build(root).test_dataloader())
    data = build(root, on_bad_image="skip")
    with pytest.warns(UserWarning, match="left out uoft-cs/cifar10 test row 3"):
        assert len(greys(data.test_dataloader())) == NUM_TEST - 1
    assert [image.name for image in data.dataset.skipped] == ["uoft-cs/cifar10 test row 3"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        greys(data.test_dataloader())  # told once


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_a_lost_source_is_never_skipped(root: Path, on_bad_image: str) -> None:
    data = build(root, on_bad_image=on_bad_image)
    next(root.rglob("test-*.parquet")).unlink()
    with pytest.raises(
        UserError, match=r"test: .*test-00000-of-00001.parquet could not be read \((?s:.)*Start again once it is back"
    ):
        list(data.test_dataloader().__iter__())


def test_a_final_fit_streams_train_and_val(root: Path) -> None:
    data = build(root, train_on="trainval").dataset
    assert data.split_sizes == {"train": NUM_TRAIN, "test": NUM_TEST}


def test_two_streamed_tables_are_joined(tmp_path: Path, root: Path) -> None:
    class Flowers(flowers.Flowers):
        copies = (replace(Streamed.copies[0], split_names={"train": "train", "val": "test", "test": "test"}),)
        class_counts: ClassVar = {}
        id_digests: ClassVar = {}
        num_examples: ClassVar = {"train": NUM_TRAIN, "val": NUM_TEST, "test": NUM_TEST}
        images_per_class: ClassVar = {}
        official_names = ()
        num_classes = 10

    data = load_dataset(Flowers(), data_root=root, stream=True, train_on="trainval")
    train = data.splits["train"]
    assert len(train) == NUM_TRAIN + NUM_TEST
    assert train.encoded(NUM_TRAIN + 5) == png(5) and train.encoded(7) == png(7)
    assert torch.equal(train.labels[-NUM_TEST:], data.splits["test"].labels)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {}, "digits is read where it lies: leave `stream` out"),
        ("folder", {"data_root": "photos"}, "folder is read where it lies"),
        ("cifar10", {"cache": "disk"}, "`stream`=True with `cache`=disk: a cache needs all images"),
    ],
)
def test_what_cannot_stream_says_so(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_datamodule(name, preprocessing=PREPROCESSING, stream=True, **options)


def test_a_column_without_images_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"cifar10 train: column 'label' is int64, not images or encoded bytes"):
        build(root, image_column="label")


def test_the_number_of_workers_is_lowered_with_a_word(root: Path) -> None:
    with pytest.warns(UserWarning, match="`num_workers`=3: a stream uses 2"):
        assert build(root, num_workers=3).num_workers == 2


def test_streamed_and_whole_data_are_not_compared(root: Path) -> None:
    streamed, loaded = build(root), build(root, stream=False)
    with pytest.raises(UserError, match="cannot be compared: give the data as the run had it, streamed"):
        loaded.load_state_dict(streamed.state_dict())
    with pytest.raises(UserError, match="cannot be compared: give the data as the run had it, whole"):
        streamed.load_state_dict(loaded.state_dict())


def test_an_archive_is_not_streamed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no uoft-cs/cifar10/; the authors' archive is read where it lies anyway"):
        load_dataset("cifar10", data_root=tmp_path, stream=True)


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (16, 8)])
def test_workers_divide_the_lanes(asked: int, given: int) -> None:
    assert count_workers(asked, streams=True) == given and (given == 0 or LANES % given == 0)
