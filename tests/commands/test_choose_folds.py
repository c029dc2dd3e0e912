"""The folds on which a choice fine-tunes: the probe's, in the time that is left, and what stays of them."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from datamodules import load_dataset
from tests.datamodules.test_holdout import split_of
from tests.support.runs import call, read_results, save_classes
from transfer.commands import choose, finetune
from transfer.commands.choose import lpft
from transfer.commands.choose.images import Images, read_images
from transfer.commands.choose.record import Choice
from transfer.config.auto import choose_lpft
from transfer.config.choose_schema import ChooseConfig
from transfer.config.problems import find_problems
from transfer.config.schema import FinetuneConfig
from transfer.errors import Interrupted, RunInterrupted
from transfer.files import read_object
from transfer.records import checked
from transfer.resampling import Difference
from transfer.runs.results import Results


def finished(images: Images, fold: int, steps: int) -> Any:
    """The results of a fold's run that was planned to take 20 steps."""
    held_out = images.folds[0] == fold
    splits = {
        "train": images.split.select(np.flatnonzero(~held_out)),
        "val": images.split.select(np.flatnonzero(held_out)),
    }
    facts = {name: SimpleNamespace(fingerprint=split.fingerprint()) for name, split in splits.items()}
    return SimpleNamespace(steps=steps, planned_steps=20, splits=facts)


def network_at_64_px(seed: int) -> Any:
    config = FinetuneConfig(dataset="folder", data_root="photos", seed=seed)
    return SimpleNamespace(config=config, start=SimpleNamespace(preprocessing=SimpleNamespace(image_size=64)))


def test_a_run_that_the_time_cuts_short_or_of_other_images_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    split, seen = split_of([0, 1] * 10), list[FinetuneConfig]()
    data: Any = SimpleNamespace(name="photos", splits={"train": split}, class_names=["a", "b"])
    images = read_images(data, ChooseConfig(), seed=3)
    network = network_at_64_px(seed=3)
    results = iter([finished(images, 2, steps=7), finished(images, 1, steps=20)])

    def finetune(config: FinetuneConfig) -> Any:
        print("epoch 1")
        seen.append(config)
        return next(results)

    monkeypatch.setattr(lpft, "finetune", finetune)
    arguments: Any = network, data, images, 2, None, tmp_path, 90.0, {}
    assert lpft.tune_fold(*arguments) is None
    (config,) = seen
    assert (config.method, config.recipe, config.image_size) == ("lpft", "none", 64)
    assert (config.folds, config.fold, config.data.draw) == (5, 2, 3)
    assert (config.trainer.limit_test_batches, config.trainer.max_time) == (0, "00:00:01:30")
    assert find_problems(config) == []
    with pytest.raises(AssertionError, match="other images in train of fold 2"):
        lpft.tune_fold(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["lpft.log"]
    assert (tmp_path / "lpft.log").read_text() == "epoch 1\n" * 2


def test_a_stopped_fold_offers_nothing_to_go_on_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def finetune(config: FinetuneConfig) -> Any:
        raise RunInterrupted(signal.SIGTERM, Path(config.out_dir or "") / "last.ckpt")

    monkeypatch.setattr(lpft, "finetune", finetune)
    data: Any = SimpleNamespace(name="photos", splits={"train": split_of([0, 1] * 10)}, class_names=["a", "b"])
    network = network_at_64_px(seed=0)
    arguments: Any = network, data, read_images(data, ChooseConfig(), 0), 0, None, tmp_path, 90.0, {}
    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$"):
        lpft.tune_fold(*arguments)


@pytest.mark.slow
def test_fine_tuning_that_is_better_is_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = save_classes(tmp_path / "photos", {"dark": 20, "grey": 20, "light": 20})
    shutil.copy(photos / "grey" / "0.png", photos / "grey" / "again.png")
    one_epoch = [replace(c, value=1) if c.field == "trainer.max_epochs" else c for c in choose_lpft(60, 1)]
    monkeypatch.setattr("transfer.config.choices.choose_lpft", lambda *_: one_epoch)
    monkeypatch.setattr(Difference, "is_better", True)  # whatever so short a training brings
    runs: list[tuple[FinetuneConfig, Results]] = []

    def tune(config: FinetuneConfig) -> Results:
        runs.append((config, finetune.finetune(config)))
        return runs[-1][1]

    monkeypatch.setattr(lpft, "finetune", tune)
    words = ("--backbones", "lite0", "--image_sizes", "32", "--folds", "2", "--seed", "1", "--budget", "9h")
    words = (*words, "--data.num_workers", "0")
    folder = tmp_path / "choice"
    assert call(choose.main, "--data_root", photos, *words, "--out_dir", folder, "--trainer.accelerator", "cpu") == 0

    pages = {"report.html", "report_photos.safetensors"}
    files = {"choose.json", "out_of_fold.npz", "frontier.png", "lpft.log", "winner", "suspects.csv", *pages}
    assert {path.name for path in folder.iterdir()} == files
    found = checked(read_object(folder / "choose.json"), Choice, folder)
    assert found.method == "lpft" and found.fine_tuning is not None and found.folds_left_out == ""
    assert found.fine_tuning.num_folds == 2 and found.fine_tuning.num_images == found.num_images
    with np.load(folder / "out_of_fold.npz", allow_pickle=False) as arrays:
        out = dict(arrays)
    (folds,), tuned = out["fold"], out["lpft_lite0_32"].argmax(1)
    assert not np.isnan(out["lpft_lite0_32"]).any()
    assert found.fine_tuning.accuracy == np.mean(tuned == out["label"])
    assert found.fine_tuning.difference.value == pytest.approx(
        np.mean(tuned == out["label"]) - np.mean(out["logits_lite0_32"][0].argmax(1) == out["label"])
    )
    for fold, (config, results) in enumerate(runs):
        assert "test" not in results.metrics and results.test_reads == 0
        held_out = load_dataset(config.dataset, **config.read_options()).split("val").image_names()
        assert sorted(held_out) == sorted(out["path"][folds == fold])
    assert len(runs) == 2
    winner = read_results(folder / "winner")
    assert (winner["config"]["method"], winner["backbone"], winner["image_size"]) == ("lpft", "lite0", 32)
    assert winner["config"]["folds"] is None and winner["test_reads"] == 1
    assert found.test == winner["metrics"]["test"]
    *_, sentence = capsys.readouterr().out.splitlines()
    assert sentence == found.sentence and "fine-tuned from its linear probe (LP-FT)" in sentence
