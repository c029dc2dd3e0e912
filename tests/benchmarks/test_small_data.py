"""The benchmark of few photos: its draws, what it runs again, and what it tells."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import draws, small_data
from tests.support.runs import save_classes
from transfer.config.command_line import parse_config, parse_probe_config
from transfer.errors import BadValue
from transfer.runs.results import Metrics, Results, SplitFacts


def test_a_draw_is_stratified_and_the_seeds_alone() -> None:
    labels = np.array(["cat"] * 600 + ["dog"] * 300 + ["owl"] * 6)
    splits = draws.draw(labels, 90, seed=3)
    counts = Counter(zip(labels.tolist(), splits.tolist(), strict=True))
    assert {label: counts[label, "train"] for label in ("cat", "dog", "owl")} == {"cat": 60, "dog": 30, "owl": 1}
    assert {label: counts[label, "val"] for label in ("cat", "dog", "owl")} == {"cat": 12, "dog": 6, "owl": 1}
    assert Counter(splits.tolist()) == {"train": 91, "val": 19, "test": 906 - 110}
    assert (draws.draw(labels, 90, seed=3) == splits).all()
    assert (draws.draw(labels, 90, seed=4) != splits).any()
    many = Counter(draws.draw(np.array(["a", "b"] * 2000), 2000, 0).tolist())
    assert many == {"train": 2000, "val": 300, "test": draws.MOST_TESTED, "": 700}


@pytest.mark.parametrize("name", small_data.METHODS)
def test_the_commands_of_all_methods_are_valid(name: str, tmp_path: Path) -> None:
    photos = save_classes(tmp_path / "clothing" / "train", {"hat": 30, "shoes": 30})
    assert len(photos.parts) and not (tmp_path / "runs").exists()
    for task in (small_data.TASKS["clothing-30"], small_data.TASKS["digits"]):
        command, *words = small_data.METHODS[name](task.epochs)
        data = small_data.words_of(task, tmp_path, tmp_path / "runs", seed=1)
        parse = parse_probe_config if command == "probe" else parse_config
        config = parse([*data, *words])[0]
        assert (config.seed, config.image_size, config.trainer.devices) == (1, task.image_size, 1)
    with open(tmp_path / "runs" / "clothing-30-1.csv", encoding="utf-8", newline="") as file:
        assert Counter(row["split"] for row in csv.DictReader(file)) == {"train": 30, "val": 10, "test": 20}


def write_results(run_dir: Path, words: Sequence[str], top1: float) -> None:
    run_dir.mkdir(parents=True)
    metrics = {"val": Metrics({"top1": 0.5}), "test": Metrics({"top1": top1})}
    splits = {"train": SplitFacts(size=30, fingerprint="ab", class_counts=[15, 15])}
    seed = int(words[list(words).index("--seed") + 1])
    Results(
        run_dir=run_dir, command=[], dataset="d", backbone="b", metrics=metrics, splits=splits, seed=seed,
        wall_seconds=2.0 + seed,
    ).save()  # fmt: skip


def test_it_goes_on_where_it_stopped_and_tells_of_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_classes(tmp_path / "clothing", {"hat": 30, "shoes": 30})
    calls: list[list[str]] = []
    accuracies = {"probe-0": 0.6, "probe-1": 0.7, "lpft-0": 0.65, "lpft-1": 0.77}

    def here(command: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        run_dir = Path(command[command.index("--out_dir") + 1])
        if len(calls) == 3:
            return subprocess.CompletedProcess(command, 2, "", "error: no space")
        write_results(run_dir, command, accuracies[run_dir.name.removeprefix("clothing-30-")])
        assert cache == tmp_path / "runs" / "cache"
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(small_data, "call", here)
    file, table = tmp_path / "found.json", tmp_path / "found.md"
    argv = ["small_data", "--data_root", str(tmp_path), "--out_dir", str(tmp_path / "runs"), "--draws", "2"]
    argv += ["--only", "clothing-30", "probe", "lpft", "--json", str(file), "--markdown", str(table)]
    assert benchmarks.main(argv) == 2 and len(calls) == 3
    assert benchmarks.main(argv) == 0 and len(calls) == 5
    assert [command[2] for command in calls] == ["probe", "finetune", "probe", "probe", "finetune"]
    found = json.loads(file.read_text())
    assert found["clothing-30"]["images"] == {"train": 30} and found["hardware"]
    lpft = found["clothing-30"]["lpft"]
    assert [(run["seed"], run["wall_seconds"]) for run in lpft["runs"]] == [(0, 2.0), (1, 3.0)]
    assert all(run["processor_seconds"] >= 0 for run in lpft["runs"])
    assert lpft["mean_test_top1"]["value"] == pytest.approx(statistics.mean((0.65, 0.77)))
    # Of two draws so far apart Student's t is wider than all accuracies.
    assert (lpft["mean_test_top1"]["low"], lpft["mean_test_top1"]["high"]) == (0, 1)
    gain = lpft["mean_gain_over_probe"]
    half = 12.706 * statistics.stdev((0.05, 0.07)) / 2**0.5  # Student's t with one degree of freedom
    assert (gain["value"], gain["low"]) == (pytest.approx(0.06), pytest.approx(0.06 - half, rel=1e-4))
    assert "| clothing-30 | lpft | 2 | 71.0 (" in table.read_text()
    assert benchmarks.main(argv) == 0 and len(calls) == 5
    argv[argv.index(str(tmp_path / "runs"))] = str(tmp_path / "others")
    accuracies["lpft-2"] = accuracies["probe-2"] = 0.9
    more = [*argv[:-4], "--json", str(tmp_path / "more.json"), "--earlier", str(file), "--draws", "3"]
    monkeypatch.setattr(small_data, "call", lambda command, cache: here(command, tmp_path / "runs" / "cache"))
    assert benchmarks.main(more) == 0 and len(calls) == 7
    found = json.loads((tmp_path / "more.json").read_text())
    assert [run["seed"] for run in found["clothing-30"]["lpft"]["runs"]] == [0, 1, 2]


def test_runs_of_an_earlier_call_stand_beside_those_that_are_there(
    tmp_path: Path,
) -> None:
    def figures(top1: dict[int, float]) -> dict[str, Any]:
        runs = [{"seed": seed, "test_top1": value, "processor_seconds": None} for seed, value in top1.items()]
        lpft = {"words": ["finetune", "--method", "lpft"], "runs": runs}
        return {"clothing-30": {"images": {"train": 30}, "lpft": lpft}}

    for method, seed, top1 in (("probe", 1, 0.5), ("lpft", 1, 0.9), ("lpft", 2, 0.7)):
        write_results(tmp_path / f"clothing-30-{method}-{seed}", ["--seed", str(seed)], top1)
    found = small_data.collect("clothing-30", tmp_path, figures({0: 0.8, 1: 0.1}))
    assert [(run["seed"], run["test_top1"]) for run in found["lpft"]["runs"]] == [(0, 0.8), (1, 0.9), (2, 0.7)]
    assert found["lpft"]["mean_test_top1"]["value"] == pytest.approx(0.8)
    assert (found["lpft"]["mean_gain_over_probe"]["value"], found["lpft"]["mean_gain_over_probe"]["count"]) == (0.4, 1)
    assert [run["processor_seconds"] for run in found["probe"]["runs"]] == [None]

    other = figures({0: 0.8})
    other["clothing-30"]["lpft"]["words"].append("--bn")
    with pytest.raises(BadValue, match=r"clothing-30 lpft ran .*--bn"):
        small_data.collect("clothing-30", tmp_path, other)


def test_an_unknown_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["small_data", "--data_root", str(tmp_path), "--out_dir", str(tmp_path / "runs"), "--only", "clothing-31"]
    assert benchmarks.main(argv) == 2
    assert "clothing-31" in capsys.readouterr().err
