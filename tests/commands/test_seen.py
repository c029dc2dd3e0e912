"""A network that is tested on images that it was trained on: found in a run, a converted file, and its own data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.support.runs import CHEAP, call, read_results, save_classes, save_photo
from transfer.commands import convert, evaluate, finetune, probe
from transfer.seen_images import SeenImages
from transfer.weights.seen import read_seen_images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on 16 photos in three splits, and its photos."""
    folder = tmp_path_factory.mktemp("first")
    for start, (split, count) in enumerate({"train": 8, "val": 2, "test": 2}.items()):
        save_classes(folder / "photos" / split, {"dark": count, "light": count})
        for number, image in enumerate(sorted((folder / "photos" / split).rglob("*.png"))):
            save_photo(image, 10_000 * (start + 1) + number, 40 if "dark" in str(image) else 200)
    run(folder / "photos", folder / "run")
    return folder / "run", folder / "photos"


def run(photos: Path, run_dir: Path, *argv: str | Path) -> dict:
    own = ("--dataset", "folder", "--data_root", photos, "--data.batch_size", "4", "--trainer.max_epochs", "1")
    assert call(finetune.main, *CHEAP, *own, "--out_dir", run_dir, *argv) == 0
    return read_results(run_dir)


def test_a_run_on_sound_splits_has_seen_none_of_its_test_images(first: tuple[Path, Path]) -> None:
    run_dir, _ = first
    assert read_results(run_dir)["seen_images"] == {"val": 0, "test": 0}
    seen = read_seen_images(run_dir)
    assert seen is not None and len(seen.ids) == 16
    state = torch.load(run_dir / "last.ckpt", weights_only=True)["DataModule"]
    saved = SeenImages.from_text(state["trained_images"])
    assert saved is not None and saved.count(seen.ids) == 16


def test_a_converted_network_tested_on_its_training_images_is_found(
    first: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, photos = first
    assert call(convert.main, run_dir, tmp_path / "net.safetensors", "--to", "own") == 0
    # The second run's test images: three that the first was trained on, and its two test ones of class dark.
    second = tmp_path / "photos"
    for split, source in {"train": "val", "val": "test", "test": "test"}.items():
        shutil.copytree(photos / source, second / split)
    for number in range(3):
        shutil.copy(photos / "train" / "light" / f"{number}.png", second / "test" / "light" / f"again{number}.png")
    save_classes(second / "train", {"more": 6})
    save_classes(second / "val", {"more": 1})
    with pytest.warns(UserWarning, match="3 of 7 test images were trained on before, by the network that this run"):
        start = ("--weights", tmp_path / "net.safetensors", "--pretrained", "efficientnet_lite0.pypi")
        results = run(second, tmp_path / "run", *start)
    assert results["seen_images"] == {"val": 1, "test": 3}  # val/more/0.png equals train/more/0.png
    assert "3 of 7 test images were trained on: the result is too good" in capsys.readouterr().out
    both = read_seen_images(tmp_path / "run")
    assert both is not None and len(both.ids) == 16 + 4 + 6


def test_other_images_of_which_some_were_trained_on_are_counted(
    first: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, photos = first
    other = tmp_path / "other"
    for name, count in {"dark": 3, "light": 2}.items():
        for number in range(count):
            (other / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(photos / "train" / name / f"{number}.png", other / name)
        save_photo(other / name / "new.png", 77, 40)
    found = evaluate.evaluate(run_dir, data_root=str(other), num_workers=0, out_dir=tmp_path / "out")
    assert (found.num_images, found.seen_images) == (7, 5)
    assert "5 of these images were trained on: the result is too good" in capsys.readouterr().out
    assert evaluate.evaluate(run_dir, num_workers=0).seen_images == 0


def test_a_probes_last_fit_has_seen_val(first: tuple[Path, Path], tmp_path: Path) -> None:
    _, photos = first
    words = ("--backbone", "b0@d=0.3,w=0.25", "--pretrained", "false", "--dataset", "folder", "--data_root", photos)
    words = (*words, "--image_size", "32", "--data.num_workers", "0", "--data.cache_dir", tmp_path / "cache")
    assert call(probe.main, *words, "--out_dir", tmp_path / "probe") == 0
    assert read_results(tmp_path / "probe")["seen_images"] == {"val": 0, "test": 0}  # val is measured by another fit
    seen = read_seen_images(tmp_path / "probe")
    assert seen is not None and len(seen.ids) == 16 + 4
    with pytest.warns(UserWarning, match="4 of 4 val images were trained on before.* or its teacher"):
        results = run(photos, tmp_path / "run", "--teacher", tmp_path / "probe")
    assert results["seen_images"] == {"val": 4, "test": 0}
