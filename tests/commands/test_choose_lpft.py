"""The choice between a linear probe and fine-tuning from it: the decision, the sentence, and the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from transfer.commands.choose import candidates, decision, lpft
from transfer.commands.choose.budget import Budget
from transfer.commands.choose.candidates import Candidate
from transfer.commands.choose.decision import Tuned, compare_methods
from transfer.commands.choose.record import LeftOut
from transfer.commands.choose.report import describe, lpft_words
from transfer.config.choose_schema import ChooseConfig
from transfer.config.command_line import given_fields, parse_choose_config, parse_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.records import Interval
from transfer.resampling import paired_bootstrap
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
DATA: Any = SimpleNamespace(num_classes=2, split_sizes={"train": 180, "val": 20}, metric="top1")


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


@pytest.mark.parametrize(
    ("num_wrong", "is_better", "of_many"), [(20, True, True), (38, False, True), (42, False, False)]
)
def test_the_probe_is_kept_unless_fine_tuning_is_better_by_more_than_the_interval_or_usually(
    num_wrong: int, is_better: bool, of_many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions = wrong_on((np.arange(200) < num_wrong // 2) | (np.arange(200) >= 200 - num_wrong // 2))
    for enough, taken in ((200, of_many), (201, is_better)):
        monkeypatch.setattr(decision, "LPFT_FROM", enough)
        found = compare_methods(LABELS, one_hot(predictions), PROBE, [1.0] * 5)
        assert (found.difference.is_better, found.is_taken) == (is_better, taken)
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
        f"{probe}; fine-tuning (LP-FT) is not better: +0.0 points (+0.0 to +0.0, 2 of 5 folds)"
    )
    found = compared(10, num_folds=5)
    low, high = (f"{100 * end:+.1f}" for end in (found.difference.low, found.difference.high))
    assert describe(tried(), IMAGES, found, "") == (
        f"net at 64 px, fine-tuned from its linear probe (LP-FT): 95.0% ({found.interval.percent()}, 5-fold);"
        f" better than the probe by 15.0 points ({low} to {high}) on the same images"
    )


@pytest.mark.parametrize(("asked", "adjusts"), [("auto", None), ("true", True), ("on", True), ("off", False)])
def test_the_command_that_fine_tunes_nevertheless_has_the_same_data(asked: str, adjusts: bool | None) -> None:
    given = ["--data_root", "my photos", "--seed", "3", "--data.group_column", "patient"]
    config, own = parse_choose_config([*given, "--logit_adjustment", asked])
    choice: Any = SimpleNamespace(
        config={**config.to_dict(), **asdict(own)},
        candidates=[None, SimpleNamespace(backbone="lite1", image_size=240)],
        chosen=1,
    )
    words = lpft_words(choice)
    found = parse_config(words)[0]
    assert words[:4] == ["--data_root", "my photos", "--seed", "3"] and "--dataset" not in words
    assert (found.dataset, found.backbone, found.image_size, found.method) == ("folder", "lite1", 240, "lpft")
    assert (found.data, found.seed) == (config.data, 3)
    # Else the rule decides, by what the data are judged by.
    assert ("loss.logit_adjustment" in given_fields(words)) == (adjusts is not None)
    assert found.loss.logit_adjustment == bool(adjusts)


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
        fold, seconds = arguments[3], arguments[-2]
        return tune(fold, seconds)

    monkeypatch.setattr(lpft, "time", clock)
    monkeypatch.setattr("transfer.commands.choose.budget.time", clock)
    monkeypatch.setattr(lpft, "tune_fold", tune_fold)
    return lpft.try_lpft(tried(), DATA, IMAGES, None, tmp_path, Budget("1m", budget, 0.0), predicted)  # type: ignore[arg-type]


def test_networks_for_which_no_time_is_left_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features take a second for ten multiply-adds; the second network's would take longer than there is time."""
    now = [0.0]

    def try_one(candidate: Any, *_: Any) -> tuple[Any, tuple[float, float]]:
        now[0] += candidate.macs / 10
        return SimpleNamespace(candidate=candidate), (candidate.macs / 10, 0.0)

    def network(name: str, macs: int) -> Any:
        start = SimpleNamespace(variant=SimpleNamespace(name=name), preprocessing=SimpleNamespace(image_size=64))
        return Candidate(FinetuneConfig(), start, 1, macs, None)  # type: ignore[arg-type]

    monkeypatch.setattr("transfer.commands.choose.budget.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(candidates, "_try", try_one)
    given = [network("small", 100), network("large", 300), network("medium", 150)]
    nothing: Any = None
    found, late = candidates.try_all(given, ChooseConfig(), nothing, nothing, nothing, Budget("25s", 25.0, 0.0))
    assert [one.candidate for one in found] == [given[0], given[2]]
    assert late == [LeftOut("large", "about 30 s for it, 15 s left of --budget 25s", 64)]
    assert capsys.readouterr().out.splitlines() == [
        "small at 64 px (1 of 3)",
        "left out: large at 64 px: about 30 s for it, 15 s left of --budget 25s",
        "medium at 64 px (3 of 3, about 15 s left)",
    ]


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
