"""Evaluation's workers are threads: the batches of the main process, and nothing goes on behind a loader's back."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import build_datamodule
from datamodules.datamodule import DataModule
from datamodules.images.transforms import build_eval_transform
from datamodules.loading.predicting import build_predict_loader
from datamodules.loading.resources import ExplainingLoader
from datamodules.loading.threads import reads_in_threads
from tests.support.data import PREPROCESSING
from transfer.images.decode import decode_image


def digits(**options: Any) -> DataModule:
    return build_datamodule("digits", preprocessing=PREPROCESSING, **{"batch_size": 50, **options})


@pytest.mark.parametrize("cache", ["none", "ram"])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_threads_give_the_batches_of_the_main_process(num_workers: int, cache: str) -> None:
    expected = list(digits(num_workers=0).val_dataloader())
    found = list(digits(num_workers=num_workers, cache=cache).val_dataloader())
    for (images, labels), (expected_images, expected_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, expected_images) and torch.equal(labels, expected_labels)


def test_photos_of_many_shapes_are_prepared_by_several_threads(tmp_path: Path) -> None:
    rng, transform = np.random.default_rng(0), build_eval_transform(PREPROCESSING)
    paths = [tmp_path / f"{index}.jpg" for index in range(40)]
    for index, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (30 + index, 70 - index, 3), dtype=np.uint8)).save(path)
    batches = list(build_predict_loader(paths, transform, 7, num_workers=4))
    assert [name for _, names, _ in batches for name in names] == list(map(str, paths))
    expected = np.stack([transform(image=decode_image(path))["image"] for path in paths])
    assert np.array_equal(torch.cat([images for images, _, _ in batches]).numpy(), expected)


def test_what_keeps_a_state_is_read_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits()
    assert reads_in_threads(data.val_dataloader().dataset)
    assert reads_in_threads(data.calibration_dataloader().dataset)
    assert not reads_in_threads(data.train_dataloader().dataset)
    own = digits(eval_transform=lambda pixels: np.zeros((32, 32, 3), np.uint8))
    assert not reads_in_threads(own.val_dataloader().dataset)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not reads_in_threads(data.val_dataloader().dataset)


class Fetched(torch.utils.data.Dataset[int]):
    """Remembers where its batches were made, and fails at an index."""

    is_thread_safe = True

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at = fails_at
        self.places: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return 100

    def __getitems__(self, indices: Sequence[int]) -> list[int]:
        self.places.append((os.getpid(), threading.current_thread().name))
        if self.fails_at in indices:
            raise ValueError(f"index {self.fails_at}")
        return list(indices)


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decoding")]


def test_batches_come_in_order_from_threads_of_this_process() -> None:
    dataset = Fetched()
    loader = ExplainingLoader(dataset, batch_size=4, num_workers=2)
    assert torch.cat(list(loader)).tolist() == list(range(100))
    assert {(pid, name[:8]) for pid, name in dataset.places} == {(os.getpid(), "decoding")}
    assert not decoding_threads()


def test_a_loader_that_is_left_early_stops_reading() -> None:
    dataset = Fetched()
    batches = iter(ExplainingLoader(dataset, batch_size=1, num_workers=2))
    assert next(batches).tolist() == [0] and decoding_threads()
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert not decoding_threads() and len(dataset.places) < 10


def test_a_failure_comes_as_it_was_and_in_its_place() -> None:
    batches = iter(ExplainingLoader(Fetched(fails_at=9), batch_size=4, num_workers=2))
    assert [next(batches).tolist() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ValueError, match=r"^index 9$"):
        next(batches)
    assert not decoding_threads()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_starts_while_threads_decode_can_open_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    stopped = threading.Event()

    def decode() -> None:
        while not stopped.is_set():
            decode_image(path)

    threads = [threading.Thread(target=decode) for _ in range(2)]
    for thread in threads:
        thread.start()
    codes = []
    for _ in range(12):
        child = os.fork()
        if child == 0:
            decode_image(path)
            os._exit(7)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stopped.set()
    for thread in threads:
        thread.join()
    assert codes == [7] * 12
