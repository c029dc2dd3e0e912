"""The choice among networks: the front and the decision, what is left out, the folder, and what cannot be chosen."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from torch import nn

from tests.support.runs import call, read_results, save_classes, save_csv, save_photo
from transfer.commands import choose, doctor, evaluate
from transfer.commands.choose import candidates
from transfer.commands.choose.candidates import find_starts, read_images
from transfer.commands.choose.decision import Outcome, decide, pareto_front
from transfer.commands.choose.record import Choice
from transfer.config.choose_schema import ChooseConfig
from transfer.config.command_line import parse_choose_config
from transfer.config.schema import FinetuneConfig
from transfer.costs.latency import Latency
from transfer.errors import BadValue, MissingData
from transfer.files import read_object
from transfer.probe.features import read_features
from transfer.records import checked
from transfer.resampling import paired_bootstrap

SMALL = ("--image_sizes", "32", "--data.num_workers", "0", "--trainer.accelerator", "cpu")

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
    labels = torch.repeat_interleave(torch.tensor(counts))
    names = [f"{index}.jpg" for index in range(len(labels))]
    own = None if groups is None else np.array(groups, str)
    split = SimpleNamespace(labels=labels, groups=own, image_names=lambda: names)
    return SimpleNamespace(splits={"train": split})


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
        (["--data.multilabel", "true"], "a probe supports one label per image only"),
        (["--image_size", "64"], "did you mean 'image_sizes'?"),
    ],
)
def test_what_cannot_be_chosen_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(BadValue) as raised:
        parse_choose_config(words)
    assert message in str(raised.value)


# The command


def fake_latency(network: nn.Module, image_size: int, **_: Any) -> Latency:
    """A millisecond for each million parameters: a network's place does not depend on the machine's load."""
    median = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    return Latency(1, median, median - 0.1, median + 0.1, 20, "a test's processor", {})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 30 photos each, in groups of three; their greys overlap."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    rows = [["image", "label", "patient"]]
    for position, name in enumerate(("dark", "grey", "light")):
        for index in range(30):
            grey = int(np.clip(rng.normal(70 + 60 * position, 40), 20, 235))
            save_photo(root / f"{name}{index}.png", 100 * position + index, grey)
            rows.append([f"{name}{index}.png", name, f"{position}-{index // 3}"])
    return save_csv(root / "photos.csv", rows)


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    """Calls the command on the table; all calls share the features."""
    cache = tmp_path_factory.mktemp("cache")

    def call_it(*words: str | Path) -> int:
        own = ("--data_root", table, "--data.group_column", "patient", "--data.cache_dir", cache, *SMALL, *words)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(candidates, "measure_latency", fake_latency)
            return call(choose.main, *own)

    return call_it


@pytest.fixture(scope="module")
def chosen(run: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A choice between lite0 and lite1; lite2 has too many parameters."""
    folder = tmp_path_factory.mktemp("choice") / "choice"
    words = (
        "--folds",
        "4",
        "--repeats",
        "2",
        "--max_params",
        "4.2M",
        "--max_latency_ms",
        "1000",
        "--learning_curve",
        "true",
    )
    assert run("--out_dir", folder, *words) == 0
    return folder


@pytest.mark.slow
def test_a_choice_leaves_its_figures_and_a_run_of_the_winner(chosen: Path) -> None:
    files = {"choose.json", "out_of_fold.npz", "frontier.png", "suspects.csv", "suspects.png", "learning_curve.png"}
    assert {path.name for path in chosen.iterdir()} == {*files, "winner"}
    found = checked(read_object(chosen / "choose.json"), Choice, chosen)
    assert [(one.backbone, one.image_size) for one in found.candidates] == [("lite0", 32), ("lite1", 32)]
    assert [(one.backbone, one.image_size) for one in found.left_out] == [("lite2", 32)]
    assert found.left_out[0].reason == "parameters 4.815 M (at most 4.2 M)"
    assert (found.folds, found.repeats, found.seed, found.metric) == (4, 2, 0, "top1")
    assert all(one.latency_ms == pytest.approx(one.num_parameters / 1e6) for one in found.candidates)
    results = read_results(chosen / "winner")
    winner = found.candidates[found.chosen]
    assert (results["backbone"], results["image_size"]) == (winner.backbone, 32)
    assert found.test == results["metrics"]["test"] and results["test_reads"] == 1
    sizes = {name: split["size"] for name, split in results["splits"].items()}
    assert found.num_images == sizes["train"] + sizes["val"] == 90 - sizes["test"]
    assert call(evaluate.main, chosen / "winner", "--num_workers", "0") == 0


@pytest.mark.slow
def test_accuracies_are_those_of_the_logits_and_about_scikit_learns(chosen: Path) -> None:
    found = json.loads((chosen / "choose.json").read_text())
    splits = read_results(chosen / "winner")["splits"]
    winner = found["candidates"][found["chosen"]]
    with np.load(chosen / "out_of_fold.npz", allow_pickle=False) as arrays:
        out = dict(arrays)
    for figures in found["candidates"]:
        logits = out[f"logits_{figures['backbone']}_32"]
        assert logits.shape == (2, found["num_images"], 3)
        assert figures["accuracy"] == pytest.approx(np.mean(logits.argmax(2) == out["label"]))
        assert figures["interval"]["low"] < figures["accuracy"] < figures["interval"]["high"]
        assert 0.5 < figures["accuracy"] < 1  # neither chance nor trivial
    parts = [read_features(Path(splits[name]["features"])) for name in ("train", "val")]
    features = torch.cat([part.features for part in parts]).float().numpy()
    assert np.array_equal(torch.cat([part.labels for part in parts]).numpy(), out["label"])
    accuracies = []
    for penalty in (1.0, 10.0, 100.0, 1000.0):
        head = LogisticRegression(C=1 / penalty, max_iter=3000)
        predicted = cross_val_predict(head, features, out["label"], cv=PredefinedSplit(out["fold"][0]))
        accuracies.append(np.mean(predicted == out["label"]))
    ours = np.mean(out[f"logits_{winner['backbone']}_32"][0].argmax(1) == out["label"])
    assert ours == pytest.approx(max(accuracies), abs=0.08)


@pytest.mark.slow
def test_the_learning_curve_ends_at_the_accuracy_of_all_images(chosen: Path) -> None:
    found = json.loads((chosen / "choose.json").read_text())
    curve, winner = found["learning_curve"], found["candidates"][found["chosen"]]
    assert curve["head"] == winner["head"] and curve["draws"] == 5
    images = [point["images"] for point in curve["points"]]
    assert images == sorted(images) and images[-1] == pytest.approx(0.75 * found["num_images"])  # 4 folds
    assert curve["points"][-1]["accuracy"] == pytest.approx(winner["accuracy"], abs=0.1)
    assert bool(curve["forecasts"]) == (curve["refusal"] is None)
    with Image.open(chosen / "learning_curve.png") as picture:
        assert picture.size == (960, 720)


@pytest.mark.slow
def test_suspects_are_the_most_accurate_networks_and_the_doctors_too(
    chosen: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads((chosen / "choose.json").read_text())
    best = max(found["candidates"], key=lambda one: one["accuracy"])
    with np.load(chosen / "out_of_fold.npz", allow_pickle=False) as arrays:
        out = dict(arrays)
    logits = out[f"logits_{best['backbone']}_32"]
    probabilities = dict(zip(out["path"], softmax(logits, axis=2).mean(0), strict=True))
    with (chosen / "suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["num_suspects"] > 3
    names = out["class_name"].tolist()
    for row in rows:
        assert Path(row["image"]).stem.startswith(row["label"])
        for key in ("label", "suggested"):
            probability = probabilities[row["image"]][names.index(row[key])]
            assert float(row[f"{key}_probability"]) == pytest.approx(probability, abs=1e-4)
    words = ("--data.group_column", "patient", "--num_workers", "0", "--out_dir", tmp_path)
    assert call(doctor.main, table, "--run", chosen, *words) in (0, 1)
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert report["suspects_fitted"] == []
    own = {(row["image"], row["suggested"]) for name in ("train", "val") for row in report["suspects"][name]}
    assert {(row["image"], row["suggested"]) for row in rows} & own
    assert "fitted to these labels" not in capsys.readouterr().out
    with (tmp_path / "suspects.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == sum(map(len, report["suspects"].values()))


@pytest.mark.slow
def test_folds_share_no_group(chosen: Path) -> None:
    with np.load(chosen / "out_of_fold.npz", allow_pickle=False) as arrays:
        out = dict(arrays)
    assert json.loads((chosen / "choose.json").read_text())["num_groups"] == len(set(out["group"])) > 20
    for folds in out["fold"]:
        assert set(folds) == {0, 1, 2, 3}
        assert all(len(set(folds[out["group"] == group])) == 1 for group in out["group"])
    stems = [Path(path).stem for path in out["path"]]
    assert all(stem.startswith(out["class_name"][label]) for stem, label in zip(stems, out["label"], strict=True))


@pytest.mark.slow
def test_stopped_while_the_winner_is_fitted_it_is_not_called_done_and_keeps_the_features(
    chosen: Path,
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(choose, "_fit_winner", stop)
    monkeypatch.setattr("transfer.probe.features._write", lambda *_: pytest.fail("computed again"))
    monkeypatch.chdir(tmp_path)
    assert run("--folds", "4", "--repeats", "2", "--max_params", "4.2M") == 130
    folder = tmp_path / "runs" / "photos_choose" / "1"
    suspects = {"suspects.csv", "suspects.png"}
    assert {path.name for path in folder.iterdir()} == {"out_of_fold.npz", "frontier.png", *suspects}
    assert (folder / "out_of_fold.npz").read_bytes() == (chosen / "out_of_fold.npz").read_bytes()
    assert (folder / "frontier.png").read_bytes() == (chosen / "frontier.png").read_bytes()
    assert "left out: lite2 at 32 px: parameters 4.815 M (at most 4.2 M)" in capsys.readouterr().out


def test_no_network_within_the_limits_lists_their_figures(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--backbones", "lite0,lite1", "--max_params", "4M", "--max_macs", "5M", "--max_latency_ms", "2")
    assert run(*words) == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert error.splitlines()[0] == "no network is within the limits"
    assert "lite0 at 32 px: multiply-adds 7.839 M (at most 5 M)" in error
    assert "lite1 at 32 px: parameters 4.14 M (at most 4 M), multiply-adds 10.23 M (at most 5 M)" in error
    assert run("--backbones", "lite0", "--max_latency_ms", "2") == 2
    assert "lite0 at 32 px: latency 3.375 ms (at most 2 ms)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_mistakes_are_told_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = save_classes(tmp_path / "photos", {"cat": 4, "dog": 4})
    for words, message in (
        (("--backbones", "lite0,lite9"), "unknown backbone 'lite9'"),
        (("--max_params", "many"), "--max_params 'many' (allowed: a number above 0"),
        (("--out_dir", photos), f"--out_dir {photos} is not empty"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert call(choose.main, "--data_root", photos, *SMALL, *words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
