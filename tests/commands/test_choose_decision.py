"""The choice among networks: the front and the decision, the folds, what is left out, and what cannot be chosen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.datamodules.test_holdout import split_of
from transfer.commands.choose import candidates
from transfer.commands.choose.candidates import find_starts
from transfer.commands.choose.decision import Outcome, decide, pareto_front
from transfer.commands.choose.images import read_images
from transfer.config.choose_schema import ChooseConfig
from transfer.config.command_line import parse_choose_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, MissingData
from transfer.resampling import paired_bootstrap

# The decision


@pytest.mark.parametrize(
    ("accuracies", "latencies", "front"),
    [
        ([0.9], [5.0], [0]),
        ([0.9, 0.8, 0.7], [3.0, 2.0, 1.0], [2, 1, 0]),
        ([0.7, 0.8, 0.9], [3.0, 2.0, 1.0], [2]),  # one is the fastest and the most accurate
        ([0.8, 0.7, 0.9, 0.85], [1.0, 2.0, 4.0, 3.0], [0, 3, 2]),
        ([0.8, 0.8], [2.0, 1.0], [1]),  # equally accurate: the faster
        ([0.8, 0.9], [1.0, 1.0], [1]),  # equally fast: the more accurate
        ([0.8, 0.8], [1.0, 1.0], [0]),
    ],
)
def test_the_front_is_what_no_other_beats(accuracies: list[float], latencies: list[float], front: list[int]) -> None:
    assert pareto_front(accuracies, latencies) == front


def outcome(num_right: int, latency_ms: float, spread_ms: float = 0.1) -> Outcome:
    """Of 200 images of class 1, right on the first ones."""
    predictions = (np.arange(200) < num_right).astype(np.int64)[None]
    times = latency_ms, latency_ms - spread_ms, latency_ms + spread_ms
    return Outcome(num_right / 200, times, predictions)


LABELS = np.ones(200, np.int64)


def test_a_faster_network_is_taken_unless_it_is_worse_beyond_the_interval() -> None:
    outcomes = [outcome(180, 30), outcome(178, 20), outcome(120, 10)]
    found = decide(outcomes, LABELS)
    assert (found.chosen, found.most_accurate, found.front) == (1, 0, [2, 1, 0])
    assert list(found.comparisons) == [2, 1]
    assert found.comparisons[2].value == pytest.approx(0.3) and found.comparisons[2].is_better
    assert found.comparisons[1] == paired_bootstrap(LABELS, outcomes[0].predictions, outcomes[1].predictions)
    assert not found.comparisons[1].is_better


def test_the_most_accurate_is_taken_if_all_faster_ones_are_worse() -> None:
    found = decide([outcome(120, 10), outcome(180, 30), outcome(140, 20), outcome(100, 40)], LABELS)
    assert (found.chosen, found.front, list(found.comparisons)) == (1, [0, 2, 1], [0, 2])
    assert all(difference.is_better for difference in found.comparisons.values())


def test_what_may_be_faster_by_chance_is_not_taken_for_it() -> None:
    outcomes = [outcome(178, 19.9, spread_ms=1), outcome(180, 20, spread_ms=1)]
    assert decide(outcomes, LABELS).chosen == 1
    assert decide([outcome(178, 17.9, spread_ms=1), outcomes[1]], LABELS).chosen == 0


def test_images_of_one_group_count_as_one() -> None:
    """Of ten groups one makes the difference: beyond the interval for 200 images, not for ten groups."""
    outcomes = [outcome(160, 10), outcome(180, 30)]
    groups = np.arange(200) // 20
    assert decide(outcomes, LABELS).chosen == 1
    assert decide(outcomes, LABELS, groups=groups).chosen == 0


# The folds


def dataset(counts: list[int], groups: list[int] | None = None) -> Any:
    labels = np.repeat(np.arange(len(counts)), counts).tolist()
    split = split_of(labels, groups=None if groups is None else list(map(str, groups)))
    names = [f"class {number}" for number in range(len(counts))]
    return SimpleNamespace(name="photos", splits={"train": split}, class_names=names)


def test_images_of_one_table_are_in_its_order_and_others_in_that_of_the_splits() -> None:
    split = split_of([0, 1] * 10)
    train, val = split.select(np.arange(2, 20)), split.select([0, 1])
    data: Any = SimpleNamespace(name="photos", splits={"train": train, "val": val}, class_names=["a", "b"])
    images = read_images(data, ChooseConfig(), 0)
    assert images.order.tolist() == [18, 19, *range(18)] and images.names[0] == val.image_names()[0]
    assert np.array_equal(images.split.ids(), split.ids())


def test_few_images_or_groups_get_as_many_folds_as_they_allow(capsys: pytest.CaptureFixture[str]) -> None:
    assert str(read_images(dataset([3, 3]), ChooseConfig(), 0)) == "3-fold"
    assert capsys.readouterr().out == "3 folds in place of 5: there are only so many images of the largest class\n"
    images = read_images(dataset([6, 6], [0, 0, 0, 1, 1, 1] * 2), ChooseConfig(repeats=2), 0)
    assert str(images) == "2 x 2-fold by group" and "so many groups" in capsys.readouterr().out
    assert str(read_images(dataset([9, 9]), ChooseConfig(), 0)) == "5-fold" and capsys.readouterr().out == ""
    with pytest.raises(BadValue, match="for want of images"):
        read_images(dataset([1, 1]), ChooseConfig(), 0)


# The candidates


def test_networks_without_weights_here_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(row: Any) -> None:
        if row.backbone != "lite0":
            raise MissingData(f"weights {row.name}: package is missing")

    monkeypatch.setattr(candidates, "fetch_weights", fetch)
    config = FinetuneConfig(dataset="folder", data_root="photos")
    with pytest.warns(UserWarning, match="left out: lite1: weights efficientnet_lite1"):
        starts, left_out = find_starts(config, ChooseConfig(backbones="lite0,lite1,lite0", image_sizes="64,32"))
    found = [(own.backbone, own.image_size, start.preprocessing.image_size) for own, start in starts]
    assert found == [("lite0", 64, 64), ("lite0", 32, 32)]
    assert [one.backbone for one in left_out] == ["lite1"]
    with pytest.raises(MissingData, match="no weights of `backbones` can be had here\n  left out: lite1"):
        find_starts(config, ChooseConfig(backbones="lite1"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbones", "lite0,,b0"], "`backbones`='lite0,,b0' (allowed: names separated by commas"),
        (["--image_sizes", "64,big"], "`image_sizes`='64,big' (allowed: 32 to 8192, separated by commas"),
        (["--image_sizes", "16"], "`image_sizes`='16' (allowed: 32 to 8192"),
        (["--folds", "1"], "`folds`=1 (allowed: 2 to 1000)"),
        (["--repeats", "0"], "`repeats`=0 (allowed: 1 to 100)"),
        (["--engine", "turbo"], "`engine`='turbo'"),
        (["--methods", "lpft"], "`methods`='lpft' (allowed: probe, or probe,lpft)"),
        (["--methods", "probe,sgd"], "`methods`='probe,sgd' (allowed: probe, or probe,lpft)"),
        (["--budget", "10"], "`budget`='10' (allowed: a time above 0, as 90s, 10m, 1h30m or 00:00:10:00)"),
        (["--data.multilabel", "true"], "a probe supports one label per image only"),
        (["--image_size", "64"], "did you mean 'image_sizes'?"),
    ],
)
def test_what_cannot_be_chosen_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(BadValue) as raised:
        parse_choose_config(words)
    assert message in str(raised.value)
