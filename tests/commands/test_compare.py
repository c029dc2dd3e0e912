"""efficientnet-transfer compare: the numbers of two runs, and the pairs that cannot be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from tests.support.runs import call
from tests.test_environment import table_rows
from transfer.commands import compare
from transfer.commands.compare_words import find_differences, judge
from transfer.resampling import paired_bootstrap
from transfer.runs.results import ProbeFit, Results, SplitFacts

LABELS = np.repeat([0, 1, 2], [50, 30, 20])
A = np.where(np.arange(100) % 10 == 0, (LABELS + 1) % 3, LABELS)  # 90 right
B = np.where(np.arange(100) % 5 == 0, (LABELS + 1) % 3, LABELS)  # 80 right

PATHS = [f"/photos/{index}.png" for index in range(100)]
TEST: dict[str, Any] = {"size": 100, "fingerprint": "f", "class_counts": [50, 30, 20]}


def save_run(
    path: Path,
    predictions: np.ndarray | None = A,
    labels: np.ndarray = LABELS,
    fingerprint: str = "f",
    paths: Sequence[str] = PATHS,
    **results: Any,
) -> Path:
    path.mkdir()
    (path / "config.yaml").write_text("backbone: b0\n")
    test = {**TEST, "fingerprint": fingerprint}
    content = {
        "command": [],
        "metrics": {},
        "dataset": "digits",
        "backbone": "b0",
        "seed": 1,
        "splits": {"test": test},
        "decay": {},
    }
    content["per_class_accuracy"] = dict.fromkeys(["x", "y", "z"], 0.5)
    (path / "results.json").write_text(json.dumps({**content, **results}))
    if predictions is not None:
        np.savez(path / "test_predictions.npz", label=labels, prediction=predictions, path=paths)
    return path


def test_both_accuracies_and_their_difference_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = save_run(tmp_path / "a"), save_run(tmp_path / "b", B, backbone="lite0", image_size=64)
    assert call(compare.main, a, b, "--json", tmp_path / "found.json") == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[:2] == [
        f"A: {a} (b0, full, on digits, seed 1)",
        f"B: {b} (lite0 64 px, full, on digits, seed 1)",
    ]
    assert "100 test images, 10,000 resamples of them" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["run_a"], found["run_b"], found["dataset"]) == (str(a), str(b), "digits")
    assert found["num_test_images"] == 100 and found["metrics"].keys() == {"top1", "mean_per_class"}
    top1, per_class = found["metrics"]["top1"], found["metrics"]["mean_per_class"]
    assert (top1["a"], top1["b"]) == (0.9, 0.8)
    assert per_class["b"] == pytest.approx(balanced_accuracy_score(LABELS, B))
    for name, metric in found["metrics"].items():
        expected = paired_bootstrap(LABELS, A, B, name)
        assert metric["difference"] == pytest.approx(vars(expected))
        assert metric["difference"]["value"] == pytest.approx(metric["a"] - metric["b"])
    difference = top1["difference"]
    low, high = 100 * difference["low"], 100 * difference["high"]
    assert 0 < low < 10 < high and difference["num_better"] > 9_990
    assert found["settings"] == {"backbone": {"a": "b0", "b": "lite0"}, "image_size": {"a": 0, "b": 64}}
    assert found["verdict"] == f"A is better: +10.0 points ({low:+.1f} to {high:+.1f}), 100 test images"
    assert printed.splitlines()[-1] == f"top-1: {found['verdict']}"
    settings, rows = table_rows(printed)[:3], table_rows(printed)[3:]
    assert settings == [["", "A", "B"], ["backbone", "b0", "lite0"], ["image_size", "0", "64"]]
    assert {head: cells[0] for head, *cells in rows} == {
        "": "top-1",
        "A": "90.00%",
        "B": "80.00%",
        "A less B, points": "+10.00",
        "95% interval": f"{low:+.2f} to {high:+.2f}",
        "resamples: A better": f"{difference['num_better'] / 10_000:.1%}",
        "resamples: equal": f"{difference['num_equal'] / 10_000:.1%}",
        "p": f"{difference['p_value']:.2g}",
    }


def test_a_run_is_equal_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_run(tmp_path / "a", decay={"test": "90 of 100 test images"})
    assert call(compare.main, run, run) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[2] == "settings: the same"
    assert [cells[1] for cells in table_rows(printed)][2:] == [
        *("90.00%", "+0.00", "+0.00 to +0.00", "0.0%", "100.0%", "1"),
    ]
    assert "top-1: they are equally good on every resample of these 100 test images" in printed
    assert printed.splitlines()[-1] == "on 90 of 100 test images"


def results(config: dict[str, Any], **fields: Any) -> Results:
    return Results(
        run_dir=Path("run"), command=[], dataset="digits", backbone="b0", metrics={}, config=config, **fields
    )


def test_settings_that_differ_are_as_they_were_resolved() -> None:
    config = {"method": None, "bn": "adapt", "out_dir": "a", "optim": {"lr": 0.1}, "data": {"fraction": None}}
    other = {"method": "lpft", "bn": "frozen", "out_dir": "b", "optim": {"lr": 0.1}, "data": {"fraction": 0.5}}
    a = results(config, lr=0.01, splits={"train": SplitFacts(size=10, fingerprint="x", class_counts=[10])})
    b = results(other, lr=0.1, splits={"train": SplitFacts(size=5, fingerprint="y", class_counts=[5])})
    assert find_differences(a, b) == {
        "method": ("full", "lpft"),
        "training images": (10, 5),
        "fingerprint of train": ("x", "y"),
        "bn": ("adapt", "frozen"),
        "optim.lr": (0.01, 0.1),
        "data.fraction": (None, 0.5),
    }
    fit = ProbeFit(penalty=1.0, val_metrics=[], extract_seconds=1.0, fit_seconds=1.0, passes=1)
    probe = results(other, probe=fit, seed=3)
    assert find_differences(probe, results(config)) == {
        "method": ("probe", "full"),
        "data.fraction": (0.5, None),
    }


@pytest.mark.parametrize(
    ("predictions", "settings", "verdict"),
    [
        (B, {}, r"A is better: \+10\.0 points \(\+[3-6]\.\d to \+1[4-7]\.\d\), 100 test images"),
        (B, {"seed": (1, 2)}, r"A is better: .*; they differ only in the seed, so another seed may turn it"),
        (np.where(np.arange(100) < 3, LABELS, A), {}, r"cannot tell which is better: B is 1\.0 points ahead \(.+"),
        (np.where(np.arange(100) < 70, LABELS, A), {}, r"B is better: \+7\.0 points \(\+\d\.\d to \+1\d\.\d\), 100 .*"),
        (A, {}, "they are equally good on every resample of these 100 test images"),
    ],
)
def test_the_verdict_is_a_sentence(predictions: np.ndarray, settings: dict[str, Any], verdict: str) -> None:
    assert re.fullmatch(verdict, judge(paired_bootstrap(LABELS, A, predictions), 100, settings))


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    assert call(compare.main, *argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    return captured.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"dataset": "pets"}, r"a was tested on digits, .*b on pets: nothing to compare"),
        ({"fingerprint": "g"}, r"different images of digits \(100 and 100 images; the fingerprints differ\)"),
        ({"splits": {}}, r"different images of digits \(100 and None images"),
        ({"per_class_accuracy": {"y": 1, "x": 1, "z": 1}}, "other classes or another order of them"),
        ({"labels": LABELS[::-1].copy()}, "the test images in another order, so that they cannot be paired"),
        ({"predictions": None}, "b has no test_predictions.npz"),
        ({"paths": [f"/moved/{index}.png" for index in range(99, -1, -1)]}, "the test images in another order"),
        ({"predictions": np.eye(3, dtype=bool)[A], "labels": np.eye(3, dtype=bool)[LABELS]}, "several labels each"),
        ({"splits": {"test": TEST | {"class_counts": [60, 20, 20]}}}, r"npz: .* tells of \[60, 20, 20\]"),
        ({"predictions": np.append(A[:-1], 3)}, "the two files are of different runs"),
    ],
)
def test_runs_that_were_tested_otherwise_are_not_compared(
    other: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = save_run(tmp_path / "a"), save_run(tmp_path / "b", **other)
    assert re.search(message, refused(capsys, a, b))


def test_what_is_not_finished_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = save_run(tmp_path / "a"), save_run(tmp_path / "b")
    (b / "results.json").unlink()
    assert refused(capsys, a, b) == f"{b} is not finished: it has no results.json; go on with it: finetune --resume {b}"
    (b / "config.yaml").unlink()
    assert refused(capsys, b, a) == f"{b} is not a run: it has no results.json"
    for text in ("{", "[]", "{}", "null"):
        (b / "results.json").write_text(text)
        assert refused(capsys, a, b).startswith(f"{b / 'results.json'}")
    assert refused(capsys, a, a, "--json", tmp_path / "no" / "x.json").endswith("no such folder")
