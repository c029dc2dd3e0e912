"""The benchmark of distillation: its splits, and what it tells of runs."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import distillation
from tests.support.runs import CHEAP, call, save_classes
from transfer.commands import finetune
from transfer.runs.results import Results, read_results


def test_a_fifth_as_many_images_choose_and_the_rest_tests(tmp_path: Path) -> None:
    photos = save_classes(tmp_path / "photos" / "train", {"cat": 20, "dog": 12}).parent
    for _ in range(2):
        with open(distillation.save_table(photos, tmp_path / "t.csv", 10), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        counts = Counter((row["label"], row["split"]) for row in rows)
        assert counts == {
            ("cat", "train"): 10, ("cat", "val"): 2, ("cat", "test"): 8, ("dog", "train"): 10, ("dog", "val"): 2,
        }  # fmt: skip
        assert len({row["path"] for row in rows}) == 32 and all(Path(row["path"]).is_file() for row in rows)


@pytest.mark.slow
def test_it_tells_of_both_networks_and_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = save_classes(tmp_path / "photos", {"cat": 14, "dog": 14})
    calls: list[list[str]] = []

    def here(words: list[str], run_dir: Path) -> Results:
        calls.append(words)
        quick = (*CHEAP, *words, "--pretrained", "false", "--trainer.max_epochs", "1", "--out_dir", run_dir)
        assert call(finetune.main, *quick, "--data.batch_size", "8") == 0
        return read_results(run_dir)

    monkeypatch.setattr(distillation, "finetune", here)
    student, file = "b0@d=0.1,w=0.1", tmp_path / "found.json"
    argv = ["distillation", "--data_root", str(photos), "--per_class", "10", "--seeds", "2", "--json", str(file)]
    sizes = ["--teacher_size", "48", "--student_size", "32", "--epochs", "1"]
    assert benchmarks.main([*argv, *sizes, "--teacher", "b0@d=0.3,w=0.25", "--student", student]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    assert [("--teacher" in words, words[words.index("--image_size") + 1]) for words in calls] == [
        (False, "48"), (False, "32"), (True, "32"), (False, "32"), (True, "32"),
    ]  # fmt: skip
    assert found["images"] == {"train": 20, "val": 4, "test": 4}
    assert found["teacher"]["num_parameters"] > found["student"]["num_parameters"] > 0
    assert min(found[name]["latency_ms"] for name in ("teacher", "student")) > 0
    alone, taught = found[distillation.ALONE], found[distillation.TAUGHT]
    assert [run["seed"] for run in alone] == [run["seed"] for run in taught] == [0, 1]
    assert found["gains"] == [b["test"]["top1"] - a["test"]["top1"] for a, b in zip(alone, taught, strict=True)]
