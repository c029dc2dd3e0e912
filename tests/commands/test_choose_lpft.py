"""The choice between a linear probe and fine-tuning from it: the decision, the folds, and the time."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules import load_dataset
from tests.datamodules.test_holdout import split_of
from tests.support.runs import call, read_results, save_classes
from transfer.commands import choose, finetune
from transfer.commands.choose import lpft
from transfer.commands.choose.budget import Budget
from transfer.commands.choose.decision import Tuned, compare_methods
from transfer.commands.choose.images import Images, read_images
from transfer.commands.choose.record import Choice
from transfer.commands.choose.report import describe
from transfer.config.auto import choose_lpft
from transfer.config.choose_schema import ChooseConfig
from transfer.config.problems import find_problems
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, Interrupted, RunInterrupted
from transfer.files import read_object
from transfer.records import Interval, checked
from transfer.resampling import Difference, paired_bootstrap
from transfer.runs.results import Results
from transfer.statistics import share_interval

fold_of = np.arange(200) % 5
LABELS = np.arange(200) // 5 % 2


def one_hot(classes: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.eye(2, dtype=np.float32)[classes]


def wrong_on(images: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(images, 1 - LABELS, LABELS)


PROBE = wrong_on(np.arange(200) < 40)  # right on 160


class Network:
    config = FinetuneConfig()

    def __str__(self) -> str:
        return "net at 64 px"


def tried() -> Any:
    found = SimpleNamespace(value=0.8, interval=Interval(0.739, 0.849), predictions=PROBE[None])
    return SimpleNamespace(candidate=Network(), found=found)


class FiveFolds(SimpleNamespace):
    def __str__(self) -> str:
        return "5-fold"


IMAGES: Any = FiveFolds(labels=LABELS, groups=None, folds=fold_of[None], num_folds=5)
DATA: Any = SimpleNamespace(num_classes=2, split_sizes={"train": 180, "val": 20}, sheet=SimpleNamespace(metric="top1"))


# The decision


def test_fine_tuning_is_compared_on_the_images_of_its_folds_alone() -> None:
    tuned = one_hot(wrong_on(np.arange(200) < 10))
    tuned[fold_of > 1] = np.nan
    found = compare_methods(LABELS, tuned, PROBE, [3.0, 4.0])
    mine = fold_of <= 1
    assert (found.num_images, found.seconds) == (80, (3.0, 4.0))
    assert (found.accuracy, found.probe_accuracy) == (76 / 80, 64 / 80)
    assert found.interval == share_interval(76 / 80, 80)
    expected = paired_bootstrap(LABELS[mine], tuned[mine].argmax(1), PROBE[mine])
    assert found.difference == expected and expected.is_better
    assert found.difference.value == pytest.approx(12 / 80)


@pytest.mark.parametrize(("num_wrong", "takes_it"), [(20, True), (38, False), (42, False), (80, False)])
def test_the_probe_is_kept_unless_fine_tuning_is_better_by_more_than_the_interval(
    num_wrong: int, takes_it: bool
) -> None:
    predictions = wrong_on((np.arange(200) < num_wrong // 2) | (np.arange(200) >= 200 - num_wrong // 2))
    found = compare_methods(LABELS, one_hot(predictions), PROBE, [1.0] * 5)
    assert found.difference.is_better is takes_it
    assert found.difference.value == pytest.approx((40 - num_wrong) / 200)


def test_images_of_one_group_count_as_one() -> None:
    tuned = one_hot(wrong_on(np.arange(200) < 20))  # 20 of 20 gains in a single group
    assert compare_methods(LABELS, tuned, PROBE, [1.0] * 5).difference.is_better
    assert not compare_methods(LABELS, tuned, PROBE, [1.0] * 5, groups=np.arange(200) // 20).difference.is_better


# The sentence


def compared(num_wrong: int, num_folds: int) -> Tuned:
    tuned = one_hot(wrong_on(np.arange(200) < num_wrong))
    tuned[fold_of >= num_folds] = np.nan
    return compare_methods(LABELS, tuned, PROBE, [1.0] * num_folds)


def test_the_sentence_says_which_method_and_why() -> None:
    probe = "net at 64 px, linear probe: 80.0% (73.9% to 84.9%, 5-fold)"
    assert describe(tried(), IMAGES, None, "") == probe
    reason = "about 22 min for a fold and the run that may follow, 11 min left of --budget 15m"
    assert describe(tried(), IMAGES, None, reason) == f"{probe}; fine-tuning (LP-FT) was not tried: {reason}"
    found = compared(40, num_folds=2)
    assert describe(tried(), IMAGES, found, reason) == (
        f"{probe}; fine-tuning (LP-FT) is not better: +0.0 points (0.0 to 0.0, 2 of 5 folds)"
    )
    found = compared(10, num_folds=5)
    low, high = (f"{100 * end:.1f}" for end in (found.difference.low, found.difference.high))
    assert describe(tried(), IMAGES, found, "") == (
        f"net at 64 px, fine-tuned from its linear probe (LP-FT): 95.0% ({found.interval.percent()}, 5-fold);"
        f" better than the probe by 15.0 points ({low} to {high}) on the same images"
    )


# The time


def attempt(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    budget: float,
    tune: Callable[[int, float], NDArray[np.float32] | None],
    predicted: float = 10.0,
) -> tuple[Tuned | None, str]:
    """Try fine-tuning with folds that take 10 seconds of a clock of its own."""
    now = [0.0]
    clock: Any = SimpleNamespace(perf_counter=lambda: now[0])

    def tune_fold(*arguments: Any) -> NDArray[np.float32] | None:
        now[0] += 10
        fold, seconds = arguments[3], arguments[-1]
        return tune(fold, seconds)

    monkeypatch.setattr(lpft, "time", clock)
    monkeypatch.setattr("transfer.commands.choose.budget.time", clock)
    monkeypatch.setattr(lpft, "predict_seconds", lambda *_: predicted)
    monkeypatch.setattr(lpft, "tune_fold", tune_fold)
    return lpft.try_lpft(tried(), DATA, IMAGES, None, tmp_path, Budget("1m", budget, 0.0))  # type: ignore[arg-type]


def right(fold: int, _: float = 0) -> NDArray[np.float32]:
    return one_hot(LABELS[fold_of == fold])


def test_as_many_folds_are_tried_as_the_time_allows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that may follow has 180 training images, a fold 160: it takes 11.25 seconds to the fold's 10."""
    left = []

    def tune(fold: int, seconds: float) -> NDArray[np.float32]:
        left.append(seconds)
        return right(fold)

    found, reason = attempt(monkeypatch, tmp_path, 45.0, tune)
    assert found is not None and found.num_images == 120 and found.seconds == (10, 10, 10)
    assert np.array_equal(~np.isnan(found.logits[:, 0]), fold_of < 3)
    assert left == pytest.approx([33.75, 23.75, 13.75])  # what a fold may take at most
    assert reason == "about 21 s for a fold and the run that may follow, 15 s left of --budget 1m"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fine-tuning net at 64 px from its probe (LP-FT) on its folds, about 10 s each"
    assert lines[1] == "  fold 1 of 5: LP-FT 100.0%, probe 80.0% of 40 images; 10 s"
    assert lines[4:] == [f"  2 of 5 folds are left out: {reason}"]
    found, reason = attempt(monkeypatch, tmp_path, 1000.0, tune)
    assert found is not None and found.num_images == 200 and reason == ""
    assert "left out" not in capsys.readouterr().out


def test_without_time_for_a_fold_none_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, reason = attempt(monkeypatch, tmp_path, 660.0, lambda *_: pytest.fail("was tried"), predicted=640.0)
    assert found is None
    assert reason == "about 23 min for a fold and the run that may follow, 11 min left of --budget 1m"


def test_a_fold_that_takes_too_long_or_fails_leaves_those_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found, reason = attempt(monkeypatch, tmp_path, 1000.0, lambda fold, _: right(fold) if fold < 2 else None)
    assert found is not None and found.num_images == 80
    assert reason == "the fold took longer than predicted, 16 min left of --budget 1m"

    def fail(*_: Any) -> NDArray[np.float32]:
        raise BadValue("the GPU's memory is too small\nfor that")

    assert attempt(monkeypatch, tmp_path, 1000.0, fail) == (None, "the GPU's memory is too small")


# The folds


def finished(images: Images, fold: int, steps: int) -> Any:
    """The results of a fold's run that was planned to take 20 steps."""
    held_out = images.folds[0] == fold
    splits = {
        "train": images.split.select(np.flatnonzero(~held_out)),
        "val": images.split.select(np.flatnonzero(held_out)),
    }
    facts = {name: SimpleNamespace(fingerprint=split.fingerprint()) for name, split in splits.items()}
    return SimpleNamespace(steps=steps, planned_steps=20, splits=facts)


def test_a_run_that_the_time_cuts_short_or_of_other_images_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    split, seen = split_of([0, 1] * 10), list[FinetuneConfig]()
    data: Any = SimpleNamespace(name="photos", splits={"train": split}, class_names=["a", "b"])
    images = read_images(data, ChooseConfig(), seed=3)
    network: Any = SimpleNamespace(config=FinetuneConfig(dataset="folder", data_root="photos", seed=3))
    results = iter([finished(images, 2, steps=7), finished(images, 1, steps=20)])

    def finetune(config: FinetuneConfig) -> Any:
        print("epoch 1")
        seen.append(config)
        return next(results)

    monkeypatch.setattr(lpft, "finetune", finetune)
    arguments: Any = network, data, images, 2, None, tmp_path, 90.0
    assert lpft.tune_fold(*arguments) is None
    (config,) = seen
    assert (config.method, config.folds, config.fold, config.data.draw) == ("lpft", 5, 2, 3)
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
    network: Any = SimpleNamespace(config=FinetuneConfig(dataset="folder", data_root="photos"))
    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$"):
        lpft.tune_fold(network, data, read_images(data, ChooseConfig(), 0), 0, None, tmp_path, 90.0)  # type: ignore[arg-type]


@pytest.mark.slow
def test_fine_tuning_that_is_better_is_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = save_classes(tmp_path / "photos", {"dark": 20, "grey": 20, "light": 20})
    shutil.copy(photos / "grey" / "0.png", photos / "grey" / "again.png")
    one_epoch = [replace(c, value=1) if c.field == "trainer.max_epochs" else c for c in choose_lpft()]
    monkeypatch.setattr("transfer.config.choices.choose_lpft", lambda: one_epoch)
    monkeypatch.setattr(Difference, "is_better", True)  # whatever so short a training brings
    runs: list[tuple[FinetuneConfig, Results]] = []

    def tune(config: FinetuneConfig) -> Results:
        runs.append((config, finetune.finetune(config)))
        return runs[-1][1]

    monkeypatch.setattr(lpft, "finetune", tune)
    words = ("--backbones", "lite0", "--image_sizes", "32", "--folds", "2", "--seed", "1", "--data.num_workers", "0")
    folder = tmp_path / "choice"
    assert call(choose.main, "--data_root", photos, *words, "--out_dir", folder, "--trainer.accelerator", "cpu") == 0

    files = {"choose.json", "out_of_fold.npz", "frontier.png", "lpft.log", "winner"}
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
    *_, use, sentence = capsys.readouterr().out.splitlines()
    assert use == f"use it: efficientnet-transfer predict {folder / 'winner'} photos/"
    assert sentence == found.sentence and "fine-tuned from its linear probe (LP-FT)" in sentence
