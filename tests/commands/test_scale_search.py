"""The search command: run, continued, retried and reported, with a stand-in for finetune."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.support.studies import make_study
from transfer.__main__ import main as entry_point
from transfer.commands import scale as script
from transfer.commands.experiments import read_data_facts
from transfer.commands.scale import search as scale_search
from transfer.experiments.scaling.plan import Trial, read_study, run_configuration, write_study
from transfer.experiments.scaling.planning import baseline_configuration, wanted_study, with_data
from transfer.experiments.sweeps import load_sweep

FIVE = ("--spacing", "0.4", "0.2", "0.2")  # alpha 1 with three of beta and gamma, 1.4 with two
SIX = ("--spacing", "0.2", "0.2", "0.2")  # and 2, 1, 1


def search(out: Path, *words: str) -> int:
    return script.main(["search", str(out), *words])


def test_a_search_runs_and_reports_and_is_not_computed_again(
    tmp_path: Path, study_stub: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid"
    assert search(out, *FIVE, "--seeds", "0", "2", "--steps", "7", "--workers", "3") == 0
    text = capfd.readouterr().out
    assert "5 points of the grid satisfy the constraint: 5 different networks" in text
    assert "5 networks for 7 steps, with 2 seeds: 70 steps in all" in text
    assert "10 of 10 planned runs are done" in text and "a1.4_b1.2_g1_s2: val top1 0.1547" in text
    study = read_study(out)
    assert study.options["threads"] == 1 and study.facts["val_images"] == 180
    assert sorted(study_stub()) == sorted(f"{run.id} grid 1" for run in study.runs)

    config = yaml.safe_load((out / "runs" / "a1.4_b1_g1.2_s2.yaml").read_text())
    assert config["backbone"] == "b0@phi=1,alpha=1.4,beta=1,gamma=1.2" and config["pretrained"] is False
    assert config["image_size"] == round(44 * 1.2) and config["seed"] == 2
    assert config["trainer"] | {"max_steps": 7, "limit_test_batches": 0, "devices": 1} == config["trainer"]

    with open(out / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    order = [("1.4", "1.2"), ("1.4", "1.0"), ("1.0", "1.4"), ("1.0", "1.2"), ("1.0", "1.0")]
    assert [(row["alpha"], row["beta"]) for row in rows] == order
    assert rows[0]["scores"] == "15.2700 15.4700" and float(rows[0]["val"]) == 15.37
    assert rows[0]["told_from_best"] == "False" and rows[-1]["told_from_best"] == "True"
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "The best network is better than each of the other 4" in (out / "report.md").read_text()

    assert search(out) == 0 and search(out, *FIVE, "--seeds", "0", "2", "--steps", "7") == 0
    assert script.main(["report", str(out), "--json", str(tmp_path / "figures.json")]) == 0
    assert len(study_stub()) == 10
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["networks"][0]["mean"]["value"] == pytest.approx(15.37) and figures["runs"]["done"] == 10
    assert figures["noise"][0]["within"] == pytest.approx(0.2 / math.sqrt(2)) and figures["options"]["seeds"] == [0, 2]
    capfd.readouterr()

    assert search(out, *FIVE, "--seeds", "0", "--set", "optim.lr=0.1") == 2
    error = capfd.readouterr().err
    assert f"{out} was planned otherwise; give a new folder, or the same options:" in error
    assert "seeds: [0, 2] -> [0]" in error and "steps: 7 -> 40" in error and "optim.lr: 0.05 -> 0.1" in error
    assert search(out, "--logger", "tensorboard") == 0 and len(study_stub()) == 10
    assert run_configuration(read_study(out), study.runs[0])["logger"] == "tensorboard"


def test_halving_trains_the_best_longer(tmp_path: Path, study_stub: Callable[[], list[str]]) -> None:
    out = tmp_path / "grid"
    words = (*SIX, "--seeds", "0", "--steps", "40", "--budget_steps", "60")
    assert search(out, *words, "--workers", "2") == 0
    first, second = ([run for run in read_study(out).runs if run.round == number] for number in (0, 1))
    assert len(first) == 6 and {run.steps for run in first} == {5}
    assert [run.id for run in second] == ["rung1_a2_b1_g1_s0", "rung1_a1.4_b1.2_g1_s0"]
    assert {run.steps for run in second} == {15} and len(study_stub()) == 8

    for path in (out / "report.png", *out.glob("runs/rung1_*.json")):  # as when the second round is only planned
        path.unlink()
    assert script.main(["report", str(out)]) == 0
    assert "6 of 8 planned runs are done" in (out / "report.md").read_text() and (out / "report.png").is_file()


def test_a_failed_run_stops_the_search_and_is_retried(
    tmp_path: Path,
    study_stub: Callable[[], list[str]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "grid"
    words = (*SIX, "--seeds", "0", "--budget_steps", "60")
    monkeypatch.setenv("STUB", "fail rung0_a2_b1_g1_s0")
    assert search(out, *words) == 1
    text = capfd.readouterr().out
    assert "5 of 6 planned runs are done, 1 failed" in text and "rung0_a2_b1_g1_s0: error: no memory" in text
    assert f"again: efficientnet-transfer scale search {out} --retry_failed" in text
    assert search(out) == 1 and len(study_stub()) == 6
    monkeypatch.setenv("STUB", "")
    assert search(out, "--retry_failed") == 0
    assert len(study_stub()) == 9 and "8 of 8 planned runs are done" in capfd.readouterr().out


def test_a_network_that_diverges_is_the_worst_and_the_search_goes_on(
    tmp_path: Path,
    study_stub: Callable[[], list[str]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "grid"
    monkeypatch.setenv("STUB", "diverge rung0_a2_b1_g1_s0")  # the best, otherwise
    assert search(out, *SIX, "--seeds", "0", "--budget_steps", "60") == 1
    text = capfd.readouterr().out
    assert "7 of 8 planned runs are done, 1 failed" in text
    assert "  rung0_a2_b1_g1_s0: error: training loss is nan in epoch 1" in text
    second = [run.id for run in read_study(out).runs if run.round == 1]
    assert len(second) == 2 and "rung1_a2_b1_g1_s0" not in second


def test_a_search_is_written_as_a_sweep_a_round_at_a_time(
    tmp_path: Path, study_stub: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid"
    words = (*SIX, "--seeds", "0", "--budget_steps", "60", "--launcher", "wandb")
    assert search(out, *words) == 0
    assert "6 runs written to" in capfd.readouterr().out
    sweep = load_sweep(out / "sweep.yaml")
    assert sweep.program == "transfer"
    assert sweep.method == "grid" and sweep.parameters.keys() == {"run"}
    for name in sweep.parameters["run"]["values"]:
        assert entry_point(sweep.arguments({"run": name})) == 0
    assert search(out, *words) == 0
    later = load_sweep(out / "sweep.yaml").parameters["run"]["values"]
    assert later == ["rung1_a2_b1_g1_s0", "rung1_a1.4_b1.2_g1_s0"]
    assert script.main(["run", str(out), "--run", "rung0_a2_b1_g1_s0"]) == 0 and len(study_stub()) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--baseline", "b9"), "unknown backbone 'b9'; did you mean"),
        (("--baseline", "b0@phi=2"), "is scaled already"),
        (("--dataset", "digit"), "unknown dataset 'digit'; did you mean 'digits'?"),
        (("--dataset", "cifar10", "--data_root", "/nowhere"), "/nowhere"),
        (("--spacing", "0.6", "0.9", "0.9"), "no point of the grid"),
        (("--steps", "0"), "--steps 0 (allowed: at least 1)"),
        (("--image_size", "31"), "--image_size 31 (allowed: "),
        (("--threads", "0"), "--threads 0 (allowed: at least 1)"),
        (("--workers", "0"), "--workers 0 (allowed: at least 1)"),
        (("--workers", str(10**20)), f"--workers {10**20} (allowed: below 2147483648)"),
        (("--threads", str(10**20)), f"--threads {10**20} (allowed: below 2147483648)"),
        (("--seeds", "0", "0"), "--seeds 0 0 (allowed: different numbers of at least 0)"),
        (("--seeds", "-1"), "--seeds -1 (allowed: different numbers of at least 0)"),
        (("--config", "nowhere.yaml"), "--config nowhere.yaml: no such file"),
        (("--set", "optim.lr"), "--set optim.lr: expected KEY=VALUE, for example --set optim.lr=0.1"),
        (("--set", "optim.lrr=1"), "unknown option 'optim.lrr'; did you mean 'optim.lr'?"),
        (("--set", "optim.lr=-1"), "optim.lr=-1.0 (allowed: above 0)"),
        (("--set", "pretrained=true"), "--set pretrained: the study decides it (networks start at random)"),
        (("--set", "seed=1"), "--set seed: the study decides it (--seeds)"),
        (("--budget_steps", "3"), "--budget_steps 3: too few for 19 trials"),
        (("--slurm", "partition=gpu"), "--slurm needs --launcher slurm"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: Sequence[str],
    message: str,
) -> None:
    monkeypatch.setattr(
        "transfer.experiments.scaling.grid.plan_trials",
        lambda costs, points: ([Trial(str(k), "b0", {}, 44, 1, 1) for k in range(len(points))], []),
    )
    assert search(tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("limit", "images"), [("null", 180), ("3", 48), ("100", 180), ("0.5", 96), ("1.0", 180)])
def test_the_report_counts_the_val_images_that_are_read(limit: str, images: int) -> None:
    study = wanted_study("search", {"set": [f"trainer.limit_val_batches={limit}"]}, scale_search.DEFAULTS)
    data = read_data_facts(baseline_configuration(study))
    facts = with_data(study, data.num_classes, data.split_sizes).facts
    assert (facts["num_classes"], facts["train_images"], facts["val_images"]) == (10, 1257, images)


def test_a_recipe_without_a_length_asks_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("image_size: 40\n")
    assert search(tmp_path / "out", "--config", str(recipe)) == 2
    assert "--steps: the recipe has none; give it" in capsys.readouterr().err
    recipe.write_text("dataset: digits\n")
    assert search(tmp_path / "out", "--config", str(recipe)) == 2
    assert "--config or --set dataset: the study decides it (--dataset)" in capsys.readouterr().err


def test_folders_and_runs_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["report", str(tmp_path)]) == 2
    assert (
        "is no study (it has no study.json): efficientnet-transfer scale search, sweep or evolve"
        in capsys.readouterr().err
    )
    study = make_study([[0.1]])
    write_study(tmp_path, replace(study, kind="sweep", facts={**study.facts, "figure": 3, "points": []}))
    assert search(tmp_path) == 2
    assert f"holds a study of another kind: efficientnet-transfer scale sweep {tmp_path}" in capsys.readouterr().err
    assert script.main(["run", str(tmp_path), "--run", "t0_s1"]) == 2
    assert "unknown run 't0_s1'; did you mean 't0_s0'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main(["serch", str(tmp_path)])
    assert "invalid choice: 'serch'" in capsys.readouterr().err
