"""Tables and archives with random damage: each is read whole or refused in one line; nothing else comes of it."""

from __future__ import annotations

import io
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import scipy.io
from PIL import Image

from datamodules.dataset.sheet import ReadOptions, Sheet, load_class_names
from datamodules.reading.archives import read_mat
from datamodules.reading.folders import read_folder
from tests.datamodules import test_archives as archives
from tests.datamodules.test_own_tables import embedded
from transfer.errors import DamagedFile, UserError

NAMES = ("cat0", "cat1", "cat2", "dog0", "dog1", "dog2")
HEADER = "image,label,split\n"
ROWS = "".join(f"img/{name}.png,{name[:3]},train\n" for name in NAMES)
MULTI_HOT = "image,cat,dog\n" + "".join(f"img/{name}.png,{int(name < 'd')},{int(name > 'd')}\n" for name in NAMES)


@pytest.fixture(autouse=True)
def _cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut off, left out or put in."""
    where = rng.randrange(len(content))
    noise = rng.randbytes(rng.randrange(1, 20))
    return rng.choice(
        (
            content[:where] + noise[:1] + content[where + 1 :],
            content[:where] + noise + content[where + len(noise) :],
            content[:where],
            content[:where] + content[where + len(noise) :],
            content[:where] + noise + content[where:],
        )
    )


def outcome(read: Callable[[], int]) -> str:
    """`read` returns the number of images; a second line in a message is only for lists of bad images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert read() > 0
        except UserError as error:
            assert "\n" not in str(error) or "that cannot be read:\n" in str(error)
            return "refused"
    return "read"


def read_own(path: Path) -> int:
    names, splits = read_folder(ReadOptions(data_root=path))
    for split in splits.values():
        assert len(split.labels) == len(split) and 0 <= int(split.labels.min()) <= int(split.labels.max()) < len(names)
    return sum(map(len, splits.values()))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", [HEADER + ROWS, MULTI_HOT])
def test_damaged_csv(tmp_path: Path, text: str, encoding: str) -> None:
    for index, name in enumerate(NAMES):
        (tmp_path / "img").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / "img" / f"{name}.png")
    found: Counter[str] = Counter()
    for seed in range(40):
        (tmp_path / "t.csv").write_bytes(damaged(text.encode(encoding), random.Random(seed)))
        found[outcome(lambda: read_own(tmp_path / "t.csv"))] += 1
    assert found.total() == 40 and found["refused"] > 10


def test_damaged_parquet(tmp_path: Path) -> None:
    embedded().to_parquet(tmp_path / "good.parquet")
    good, found = (tmp_path / "good.parquet").read_bytes(), Counter[str]()
    for seed in range(40):
        path = tmp_path / f"{seed}.parquet"
        path.write_bytes(damaged(good, random.Random(seed)))
        found[outcome(lambda path=path: read_own(path))] += 1  # type: ignore[misc]
    assert found.total() == 40 and found["refused"] > 20


def test_damaged_save_to_disk(tmp_path: Path) -> None:
    embedded().save_to_disk(tmp_path / "good")
    found = Counter[str]()
    for seed in range(60):
        rng, folder = random.Random(seed), tmp_path / str(seed)
        shutil.copytree(tmp_path / "good", folder)
        file = rng.choice(sorted(folder.iterdir()))
        file.write_bytes(damaged(file.read_bytes(), rng))
        found[outcome(lambda folder=folder: read_own(folder))] += 1  # type: ignore[misc]
    assert found.total() == 60 and found["refused"] > 20


ARCHIVES: dict[str, tuple[Sheet, Callable[[Path], object], int]] = {
    "cifar10": (archives.TinyCIFAR10(), archives.save_cifar10, 20),
    "flowers": (archives.TinyFlowers(), archives.save_flowers, 2),
    "cars": (archives.TinyCars(), archives.save_cars, 2),
    "aircraft": (archives.TinyAircraft(), archives.save_aircraft, 20),
    "pets": (archives.TinyPets(), archives.save_pets, 20),
    "food101": (archives.TinyFood(), lambda folder: archives.save_food(folder, list(load_class_names("food101"))), 20),
    "birdsnap": (archives.TinyBirdsnap(), archives.save_birdsnap, 20),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_damaged_archives(tmp_path: Path, name: str) -> None:
    sheet, save, tries = ARCHIVES[name]
    save(tmp_path)
    lists = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".jpg", ".JPG"))
    found: Counter[str] = Counter()
    for seed in range(tries):
        rng = random.Random(seed)
        file = rng.choice(lists)
        good = file.read_bytes()
        file.write_bytes(damaged(good, rng))
        found[outcome(lambda: sum(len(split) for split in sheet.read_archive(tmp_path)[1].values()))] += 1  # type: ignore[attr-defined]
        file.write_bytes(good)
    assert found.total() == tries and found["refused"] > 0


def test_a_matlab_file_that_crashes_its_reader(tmp_path: Path) -> None:
    rows = np.empty((1, 4), dtype=[("class", object), ("fname", object)])
    for index in range(4):
        rows[0, index] = (index + 1, f"{index}.jpg")
    good = io.BytesIO()
    scipy.io.savemat(good, {"annotations": rows})
    (tmp_path / "annos.mat").write_bytes(damaged(good.getvalue(), random.Random(36)))  # a segmentation fault in scipy
    with pytest.raises(DamagedFile, match=r"annos\.mat: not a Matlab file that can be read"):
        read_mat(tmp_path / "annos.mat", "annotations")
