"""Files that did not change are read once: their MD5 and whether they decode are kept in the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import load_dataset
from datamodules.dataset import checks, record
from datamodules.dataset.record import find_in_files


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(record, "FEWEST", 1)
    return tmp_path / "cache" / "efficientnet-transfer" / "records"


def save_files(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{index} a.txt" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_text(str(index))
    return paths


def test_only_new_and_changed_files_are_read_again(tmp_path: Path) -> None:
    paths, read = save_files(tmp_path / "files", 5), []

    def find(path: Path) -> str | None:
        read.append(path.name)
        return path.read_text(encoding="utf-8") if path.exists() else None

    assert find_in_files("text", paths[:3], find) == ["0", "1", "2"] and len(read) == 3
    assert find_in_files("text", paths, find) == ["0", "1", "2", "3", "4"] and sorted(read[3:]) == [
        "3 a.txt",
        "4 a.txt",
    ]
    assert find_in_files("text", paths[:3], find) == ["0", "1", "2"] and len(read) == 5
    paths[1].write_text("x")
    os.utime(paths[1], ns=(1, 1))
    paths[2].unlink()
    assert find_in_files("text", paths, find) == ["0", "x", None, "3", "4"] and sorted(read[5:]) == [
        "1 a.txt",
        "2 a.txt",
    ]
    assert find_in_files("text", paths, find)[2] is None and read[7:] == ["2 a.txt"]  # what was not found is not kept
    assert find_in_files("other", paths[:1], find) == ["0"] and read[8:] == ["0 a.txt"]


def test_a_damaged_record_is_made_again(tmp_path: Path, cache: Path) -> None:
    paths = save_files(tmp_path / "files", 3)
    find_in_files("text", paths, Path.read_text)
    (file,) = cache.glob("*.json")
    file.write_text("{")
    assert find_in_files("text", paths, Path.read_text) == ["0", "1", "2"]
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match="what is found in files cannot be kept"):
        assert find_in_files("text", paths, Path.read_text) == ["0", "1", "2"]


def test_images_are_decoded_once_and_a_bad_one_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(20):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 2**16 if index == 3 else 2**8, (9, 8))
        Image.fromarray(pixels.astype(np.uint16 if index == 3 else np.uint8)).save(path)
    (tmp_path / "photos" / "a" / "bad.png").write_bytes(b"bad")
    decoded = []
    measure = checks.measure_image
    monkeypatch.setattr(checks, "measure_image", lambda path, *rest: decoded.append(path.name) or measure(path, *rest))
    found = []
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 image that cannot be read"):
            found.append(load_dataset("folder", data_root=tmp_path / "photos", on_bad_image="skip"))
    assert len(decoded) == 22 and decoded.count("bad.png") == 2
    assert found[0].fingerprint == found[1].fingerprint and found[0].skipped == found[1].skipped
    assert found[0].splits["train"].decoding == found[1].splits["train"].decoding  # the range of the deep image
