"""The image cache: the same pixels as without it, whoever builds it and whatever happens meanwhile."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import build_datamodule
from datamodules.datamodule import DataModule
from datamodules.loading import cache
from datamodules.loading.cache import build_cache
from datamodules.loading.image_cache import DamagedCache, ImageCache
from tests.support.data import PREPROCESSING
from transfer.errors import UserError
from transfer.files import default_cache_dir
from transfer.images.decode import decode_image
from transfer.images.resizing import Resize

SHORT = Resize(36, Image.Resampling.BICUBIC, squash=False)
DiskUsage = namedtuple("DiskUsage", ("total", "used", "free"))


def picture(seed: int, width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 14 JPEGs of 90x70 and 60x100; one tiny, one grey, one turned by EXIF, one PNG."""
    folder = tmp_path / "photos"
    for index in range(28):
        path = folder / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index, *((60, 100) if index % 3 else (90, 70))).save(path, quality=95)
    picture(1, 20, 16).save(folder / "a" / "2.jpg")
    picture(2, 90, 70).convert("L").save(folder / "a" / "4.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3, 90, 70).save(folder / "b" / "3.jpg", exif=exif)
    picture(4, 90, 70).save(folder / "b" / "29.png")
    return folder


def folder_data(photos: Path, **options: Any) -> DataModule:
    preparing = {name: options.pop(name) for name in ("image_size", "interpolation", "resize") if name in options}
    defaults = {
        "preprocessing": replace(PREPROCESSING, **preparing),
        "batch_size": 6,
        "num_workers": 0,
        "val_fraction": 0.25,
    }
    data = build_datamodule(
        "folder", **{"data_root": photos, "cache_dir": photos.parent / "cache", **defaults, **options}
    )
    data.setup()
    return data


def batches(loader: Any) -> torch.Tensor:
    return torch.cat([images for images, _ in loader])


def cache_files(photos: Path) -> list[Path]:
    return sorted((photos.parent / "cache").glob("*.images"))


def assert_holds(stored: ImageCache, data: DataModule, split: str = "train") -> None:
    """What is stored is what evaluation makes of the images before it crops."""
    assert len(stored) == len(data.dataset.splits[split])
    for index in range(len(stored)):
        pixels = decode_image(data.dataset.splits[split].encoded(index))
        height, width = pixels.shape[:2]
        if min(height, width) > 36:
            size = (36 * width // min(height, width), 36 * height // min(height, width))
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        assert np.array_equal(stored[index].pixels(), pixels)


# --- the same pixels


@pytest.mark.parametrize("kind", ["disk", "ram"])
@pytest.mark.parametrize("resize", ["short_side", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_is_the_same_with_and_without_a_cache_to_the_bit(
    photos: Path, kind: str, resize: str, interpolation: str
) -> None:
    options = {"resize": resize, "interpolation": interpolation}
    plain, cached = folder_data(photos, **options), folder_data(photos, cache=kind, **options)
    for split in ("train", "val", "test"):
        assert torch.equal(batches(plain.eval_dataloader(split)), batches(cached.eval_dataloader(split)))
    assert torch.equal(batches(plain.calibration_dataloader()), batches(cached.calibration_dataloader()))
    # Where evaluation squashes, the training images keep their shape for the crops: calibration reads the files.
    cached.train_dataloader()
    assert (cached.calibration_dataloader().dataset.cache is None) == (resize == "squash")  # type: ignore[attr-defined]  # ours


def test_training_crops_are_the_same_part_of_the_image(photos: Path) -> None:
    plain, cached = folder_data(photos), folder_data(photos, cache="disk")
    # Crops of 32 px from images 70 and 36 px high show the same, less sharply.
    difference = (batches(plain.train_dataloader()).float() - batches(cached.train_dataloader()).float()).abs()
    assert difference.mean() < 10
    others = batches(folder_data(photos, seed=1).train_dataloader()).float()
    assert (others - batches(plain.train_dataloader()).float()).abs().mean() > 30
    none = [folder_data(photos, augment="none", cache=kind) for kind in ("none", "disk")]
    assert torch.equal(*(batches(data.train_dataloader()) for data in none))


@pytest.mark.parametrize("augment", ["basic", "trivialaugment"])
def test_the_same_seed_gives_the_same_batches_from_ram_and_disk_by_any_number_of_workers(
    photos: Path, augment: str
) -> None:
    def run(**options: Any) -> torch.Tensor:
        return batches(folder_data(photos, augment=augment, **options).train_dataloader())

    first = run(cache="disk")
    assert torch.equal(run(cache="disk", num_workers=2), first) and torch.equal(run(cache="ram", num_workers=2), first)
    assert not torch.equal(run(cache="disk", seed=1), first)


def test_a_resumed_epoch_goes_on_with_the_same_batches(photos: Path) -> None:
    whole = list(folder_data(photos, cache="disk", batch_size=4).train_dataloader())
    resumed = folder_data(photos, cache="disk", batch_size=4).train_dataloader()
    resumed.load_state_dict({"epoch": 0, "batches": 1})
    rest = list(resumed)
    assert len(rest) == len(whole) - 1 > 1
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(rest, whole[1:], strict=True))


def test_tiny_images_are_stored_as_they_are(photos: Path) -> None:
    data = folder_data(photos)
    stored = build_cache(data.dataset.splits["train"], SHORT, "disk", photos.parent / "cache")
    assert_holds(stored, data)
    assert {min(shape) for shape in stored.shapes.tolist()} <= {36, 16}
    assert Resize(36, Image.Resampling.BICUBIC, squash=True).shrunk_shape(30, 100) == (30, 100)


def test_workers_get_a_name_or_shared_memory_and_no_copy(photos: Path) -> None:
    split = folder_data(photos).dataset.splits["train"]
    disk, ram = (build_cache(split, SHORT, kind, photos.parent / "cache") for kind in ("disk", "ram"))
    size = 3 * int(disk.shapes.prod(axis=1).sum())
    assert len(pickle.dumps(disk)) < size / 10 and len(bytes(ForkingPickler.dumps(ram))) < size / 10
    again = pickle.loads(pickle.dumps(disk))
    assert all(np.array_equal(again[i].pixels(), ram[i].pixels()) for i in range(len(split)))
    with pytest.raises(ValueError, match="read-only"):
        disk[0].pixels()[0, 0, 0] = 1


# --- which file


def test_a_second_run_finds_what_the_first_one_made(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = batches(folder_data(photos, cache="disk").train_dataloader())
    monkeypatch.setattr(cache, "decode_image", lambda *arguments: pytest.fail("decoded again"))
    assert torch.equal(batches(folder_data(photos, cache="disk").train_dataloader()), first)
    assert len(cache_files(photos)) == 1


def test_other_images_another_order_and_another_size_are_other_files(photos: Path) -> None:
    data = folder_data(photos)
    train = data.dataset.splits["train"]
    order = np.arange(len(train))[::-1].copy()
    folder = photos.parent / "cache"
    build_cache(train, SHORT, "disk", folder)
    reversed_cache = build_cache(train.select(order), SHORT, "disk", folder)
    assert np.array_equal(
        reversed_cache[0].pixels(), build_cache(train, SHORT, "disk", folder)[len(train) - 1].pixels()
    )
    build_cache(train, Resize(40, SHORT.resample, squash=False), "disk", folder)
    build_cache(train, Resize(36, Image.Resampling.BILINEAR, squash=False), "disk", folder)
    assert len(cache_files(photos)) == 4
    picture(99, 90, 70).save(Path(train.encoded(0)))  # type: ignore[arg-type]
    assert_holds(build_cache(train, SHORT, "disk", folder), data)
    assert len(cache_files(photos)) == 5


@pytest.mark.parametrize("damage", ["cut off", "foreign", "empty"])
def test_a_damaged_file_is_built_anew(photos: Path, damage: str) -> None:
    data = folder_data(photos)
    build_cache(data.dataset.splits["train"], SHORT, "disk", photos.parent / "cache")
    (path,) = cache_files(photos)
    content = path.read_bytes()
    path.write_bytes({"cut off": content[:-1], "foreign": b"x" * len(content), "empty": b""}[damage])
    assert_holds(build_cache(data.dataset.splits["train"], SHORT, "disk", photos.parent / "cache"), data)
    assert path.read_bytes() == content


def test_the_default_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert default_cache_dir() == Path("/there/efficientnet-transfer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "efficientnet-transfer"


# --- several processes, and sudden ends

BUILD = """
import json, pickle, sys, time
from pathlib import Path
from datamodules.loading import cache

split, resize = pickle.loads(Path(sys.argv[1]).read_bytes())
decode_image, decoded = cache.decode_image, []

def slowly(*arguments):
    decoded.append(arguments)
    time.sleep(float(sys.argv[3]))
    return decode_image(*arguments)

cache.decode_image = slowly
print("starts", flush=True)
stored = cache.build_cache(split, resize, "disk", Path(sys.argv[2]))
print(json.dumps([len(decoded), [stored[index].pixels().ravel().tolist() for index in range(len(stored))]]))
"""


def start_build(data: DataModule, folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that builds the train cache, waiting so long at every image; it prints how many it decoded."""
    job = folder.parent / "job.pickle"
    job.write_bytes(pickle.dumps((data.dataset.splits["train"], SHORT)))
    command = [sys.executable, "-c", BUILD, str(job), str(folder), str(seconds)]
    return subprocess.Popen(command, cwd=Path(cache.__file__).parents[2], stdout=subprocess.PIPE, text=True)


def test_a_builder_that_is_killed_leaves_nothing_that_counts(photos: Path) -> None:
    data, folder = folder_data(photos), photos.parent / "cache"
    with start_build(data, folder, seconds=60) as process:
        deadline = time.monotonic() + 60
        while not (partial := list(folder.glob("*.partial"))) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert partial and not cache_files(photos)
    partial[0].write_bytes(b"x" * 10**6)  # longer than the file will be
    assert_holds(build_cache(data.dataset.splits["train"], SHORT, "disk", folder), data)
    assert len(cache_files(photos)) == 1 and not list(folder.glob("*.partial"))


def test_of_two_processes_one_builds_and_both_are_right(photos: Path) -> None:
    data, folder = folder_data(photos), photos.parent / "cache"
    with start_build(data, folder, seconds=0.2) as first, start_build(data, folder, seconds=0.2) as second:
        outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    (decoded, pixels), (others_decoded, others_pixels) = (json.loads(output.splitlines()[1]) for output in outputs)
    assert sorted((decoded, others_decoded)) == [0, len(data.dataset.splits["train"])]
    assert pixels == others_pixels
    assert_holds(build_cache(data.dataset.splits["train"], SHORT, "disk", folder), data)
    assert len(cache_files(photos)) == 1


# --- refusals


def test_an_unknown_kind_of_cache_is_refused(photos: Path) -> None:
    with pytest.raises(UserError, match="unknown cache 'dis'; did you mean 'disk'"):
        build_datamodule("folder", preprocessing=PREPROCESSING, data_root=photos, cache="dis")


@pytest.mark.parametrize("kind", ["disk", "ram"])
def test_a_bad_image_is_named_and_leaves_no_file(photos: Path, kind: str) -> None:
    data = folder_data(photos, cache=kind)
    bad = Path(data.dataset.splits["train"].encoded(0))  # type: ignore[arg-type]
    content = bad.read_bytes()
    for broken in (content[: len(content) // 2], b"text", b""):
        bad.write_bytes(broken)
        with pytest.raises(UserError, match=rf"{bad.name}: .*\nRepair the image, or set `on_bad_image`=skip"):
            data.train_dataloader()
        assert not cache_files(photos) and not list((photos.parent / "cache").glob("*.partial"))
    with pytest.warns(UserWarning, match="training without 1 image"):
        data = folder_data(photos, cache=kind, on_bad_image="skip")
    assert len(data.dataset.skipped) == 1 and len(batches(data.train_dataloader())) > 0


def test_a_folder_that_cannot_be_written_is_refused(photos: Path) -> None:
    data = folder_data(photos, cache="disk", cache_dir=photos / "a" / "0.jpg" / "cache")
    with pytest.raises(
        UserError, match=r"0\.jpg/cache: the image cache cannot be written: .*set `cache_dir` to another folder"
    ):
        data.train_dataloader()


def test_too_little_space_is_refused_before_building(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DiskUsage(10**12, 10**12, 20_000))
    data = folder_data(photos, cache="disk")
    with pytest.raises(UserError, match=r"cache of .* takes 0\.00 GB, 0\.00 GB are free; make room, set `cache_dir`"):
        data.train_dataloader()
    with pytest.raises(UserError, match=r"`cache`=ram: the images of .* of memory are free"):
        folder_data(photos, cache="ram").train_dataloader()


def test_a_disk_that_fills_up_meanwhile_leaves_no_file(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match="the image cache cannot be written: no space left on device"):
        folder_data(photos, cache="disk").train_dataloader()
    assert not cache_files(photos) and not list((photos.parent / "cache").glob("*.partial"))


def test_a_damaged_byte_of_a_cache_file_is_noticed_when_it_is_read(photos: Path, tmp_path: Path) -> None:
    split = folder_data(photos).dataset.split("train")
    build_cache(split, SHORT, "disk", tmp_path)
    (path,) = tmp_path.glob("*.images")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    cache = build_cache(split, SHORT, "disk", tmp_path)
    assert cache[0].pixels().size
    with pytest.raises(DamagedCache, match=f"{path}: image {len(split) - 1} of the cache is damaged; delete the file"):
        cache[len(split) - 1]
