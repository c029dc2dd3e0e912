"""The command that chooses among networks: what it leaves behind, and what it refuses."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from torch import nn

from datamodules import load_dataset
from tests.support.reported import Page
from tests.support.runs import call, read_results, read_weights, save_classes, save_csv, save_photo
from transfer.commands import choose, doctor, evaluate
from transfer.commands.choose import candidates
from transfer.commands.choose.record import Choice
from transfer.costs.latency import Latency
from transfer.files import read_object
from transfer.probe.features import read_features
from transfer.records import checked
from transfer.report.photos import read_photos

SMALL = ("--image_sizes", "32", "--data.num_workers", "0", "--trainer.accelerator", "cpu")


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
    words = ("--folds", "4", "--repeats", "2", "--max_params", "4.2M", "--max_latency_ms", "1000", "--methods", "probe")
    words = (*words, "--learning_curve", "true")
    assert run("--out_dir", folder, *words) == 0
    return folder


@pytest.mark.slow
def test_a_choice_leaves_its_figures_and_a_run_of_the_winner(chosen: Path) -> None:
    files = {"choose.json", "out_of_fold.npz", "frontier.png", "suspects.csv", "suspects.png", "learning_curve.png"}
    assert {path.name for path in chosen.iterdir()} == {*files, "report.html", "report_photos.safetensors", "winner"}
    found = checked(read_object(chosen / "choose.json"), Choice, chosen)
    assert [(one.backbone, one.image_size) for one in found.candidates] == [("lite0", 32), ("lite1", 32)]
    assert [(one.backbone, one.image_size) for one in found.left_out] == [("lite2", 32)]
    assert found.left_out[0].reason == "parameters 4.815 M (at most 4.2 M)"
    assert (found.folds, found.repeats, found.seed, found.metric) == (4, 2, 0, "top1")
    for one in found.candidates:  # timed with the head of the last map alone
        last, every = 1280, 1280 + 112 + 192 + 320
        assert one.num_features in (last, every)
        assert one.latency_ms == pytest.approx((one.num_parameters - 3 * (one.num_features - last)) / 1e6)
    results = read_results(chosen / "winner")
    winner = found.candidates[found.chosen]
    assert (results["backbone"], results["image_size"]) == (winner.backbone, 32)
    assert (results["num_parameters"], results["num_features"]) == (winner.num_parameters, winner.num_features)
    assert found.test == results["metrics"]["test"] and results["test_reads"] == 1
    sizes = {name: split["size"] for name, split in results["splits"].items()}
    assert found.num_images == sizes["train"] + sizes["val"] == 90 - sizes["test"]
    assert call(evaluate.main, chosen / "winner", "--num_workers", "0") == 0


@pytest.mark.slow
def test_a_choice_leaves_a_page_with_the_pictures_of_doubtful_photos(chosen: Path) -> None:
    found = json.loads((chosen / "choose.json").read_text())
    photos = read_photos(chosen)
    assert photos is not None and len(photos.photos) == min(found["num_suspects"], 40)
    html = (chosen / "report.html").read_text()
    page, winner = Page(html), found["candidates"][found["chosen"]]
    taken = (
        f"{winner['accuracy']:.1%} top-1 accuracy in 2 x 4-fold cross-validation by group: take {winner['backbone']}"
    )
    assert taken in " ".join(page.text.split()) and 'href="winner/report.html"' in html
    assert html.count("data:image/jpeg") == len(photos.photos)
    matrix = next(rows for rows in page.tables if rows[0] == ["class", "dark", "grey", "light"])
    assert sum(int(cell) for row in matrix[1:] for cell in row[1:] if cell != "·") == found["num_images"]


@pytest.mark.slow
def test_accuracies_are_those_of_the_logits_and_about_scikit_learns(chosen: Path, table: Path) -> None:
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
    width = winner["num_features"]
    parts = [read_features(Path(splits[name]["features"])).leading(width) for name in ("train", "val")]
    data = load_dataset("folder", data_root=table, group_column="patient")
    names = [name for split in ("train", "val") for name in data.split(split).image_names()]
    order = [names.index(path) for path in out["path"]]
    features = torch.cat([part.features for part in parts]).float().numpy()[order]
    assert np.array_equal(torch.cat([part.labels for part in parts]).numpy()[order], out["label"])
    accuracies = []
    for penalty in (1.0, 10.0, 100.0, 1000.0):
        head = LogisticRegression(C=1 / penalty, max_iter=3000)
        predicted = cross_val_predict(head, features, out["label"], cv=PredefinedSplit(out["fold"][0]))
        accuracies.append(np.mean(predicted == out["label"]))
    ours = np.mean(out[f"logits_{winner['backbone']}_32"][0].argmax(1) == out["label"])
    assert ours == pytest.approx(max(accuracies), abs=0.08)


@pytest.mark.slow
def test_the_winners_head_is_the_one_that_was_cross_validated(chosen: Path) -> None:
    """As scikit-learn fits it: to train for the metrics on val, to train and val for the network that is left."""
    found = json.loads((chosen / "choose.json").read_text())
    winner, results = found["candidates"][found["chosen"]], read_results(chosen / "winner")
    assert (results["head"], results["penalty"], results["temperature"]) == tuple(
        winner[name] for name in ("head", "penalty", "temperature")
    )
    files = (Path(results["splits"][name]["features"]) for name in ("train", "val"))
    train, val = (read_features(file).leading(winner["num_features"]) for file in files)
    x, y = ([getattr(part, name).double().numpy() for part in (train, val)] for name in ("features", "labels"))

    def expected(features: Any, labels: Any) -> Any:
        if winner["head"] == "ridge":
            return Ridge(alpha=winner["penalty"], tol=1e-10).fit(features, np.eye(3)[labels.astype(int)])
        return LogisticRegression(C=1 / winner["penalty"], tol=1e-10, max_iter=100_000).fit(features, labels)

    alone, both = expected(x[0], y[0]), expected(np.concatenate(x), np.concatenate(y))
    head = read_weights(chosen / "winner")
    for name, value in (("weight", both.coef_), ("bias", both.intercept_)):
        scaled = head[f"classifier.head.fc.{name}"].numpy() * winner["temperature"]
        assert scaled - scaled.mean(0) == pytest.approx(value - value.mean(0), abs=1e-3 * float(np.abs(value).max()))
    top1 = np.mean(np.argmax(x[1] @ alone.coef_.T + alone.intercept_, 1) == y[1])
    assert results["metrics"]["val"]["top1"] == pytest.approx(top1)


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
def test_where_the_mean_per_class_counts_heads_are_adjusted(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data.metric", "mean_per_class", "--backbones", "lite0", "--folds", "3", "--methods", "probe")
    assert run(*words, "--out_dir", tmp_path / "choice") == 0
    said = "accuracy is the mean of the classes' accuracies; heads with logit adjustment"
    assert said in capsys.readouterr().out.splitlines()
    found = checked(read_object(tmp_path / "choice/choose.json"), Choice, tmp_path)
    assert found.metric == "mean_per_class" and found.candidates[0].logit_adjustment
    with np.load(tmp_path / "choice/out_of_fold.npz", allow_pickle=False) as arrays:
        logits, fold_of = arrays["logits_lite0_32"][0], arrays["fold"][0]
        right = logits.argmax(1) == arrays["label"]
        for fold in range(3):  # of which suspects know nothing
            shares = np.bincount(arrays["label"][fold_of != fold]) / (fold_of != fold).sum()
            unadjusted = softmax(logits[fold_of == fold] + np.log(shares), axis=1)
            np.testing.assert_allclose(arrays["probability_lite0_32"][fold_of == fold], unadjusted, atol=1e-5)
        mean = np.mean([right[arrays["label"] == label].mean() for label in range(3)])
    assert found.candidates[0].accuracy == pytest.approx(mean)
    winner = read_results(tmp_path / "choice/winner")
    assert (winner["logit_adjustment"], winner["quoted_metric"]) == (True, "mean_per_class")
    assert found.seconds.keys() == {"networks", "suspects", "learning_curve", "fine_tuning", "winner"}


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
    assert run("--folds", "4", "--repeats", "2", "--max_params", "4.2M", "--methods", "probe") == 130
    folder = tmp_path / "runs" / "photos_choose" / "1"
    suspects = {"suspects.csv", "suspects.png"}
    assert {path.name for path in folder.iterdir()} == {
        "out_of_fold.npz",
        "frontier.png",
        "report_photos.safetensors",
        *suspects,
    }
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
