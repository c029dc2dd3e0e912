"""Grid searches without training: what is planned, kept, ranked and said, with a stand-in for finetune.py."""

from __future__ import annotations

import csv
import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from transfer.__main__ import main as entry_point
from transfer.commands import scale as script
from transfer.commands.experiments import read_data_facts
from transfer.commands.scale import search as scale_search
from transfer.config.command_line import flatten, parse_config
from transfer.costs.counts import count_macs
from transfer.costs.network_costs import Costs
from transfer.errors import UserError
from transfer.experiments.launchers import LAUNCHERS, Launch
from transfer.experiments.locks import locked
from transfer.experiments.scaling.conclusions import conclusions
from transfer.experiments.scaling.defaults import PROXY
from transfer.experiments.scaling.grid import PAPER, grid_points, plan_trials
from transfer.experiments.scaling.loop import conduct
from transfer.experiments.scaling.noise import measure_noise
from transfer.experiments.scaling.outcomes import Outcome, read_outcomes, run_job
from transfer.experiments.scaling.plan import Study, Trial, TrialRun, read_study, run_configuration, write_study
from transfer.experiments.scaling.planning import baseline_configuration, wanted_study, with_data
from transfer.experiments.scaling.proxy import proxy_settings
from transfer.experiments.scaling.ranking import rank_rounds, ranked
from transfer.experiments.scaling.report import markdown
from transfer.experiments.scaling.rounds import plan_next_round
from transfer.experiments.scaling.search_report import search_report
from transfer.experiments.sweeps import draw, load_sweep
from transfer.files import write_json
from transfer.networks.registry import get_backbone
from transfer.networks.scaling import compound_scale, scale_phi
from transfer.weights.build import build_classifier

# The grid


@pytest.mark.parametrize("spacing", [(0.2, 0.1, 0.05), (0.05, 0.05, 0.05), (0.3, 0.07, 0.11), (1, 1, 1)])
def test_the_grid_is_what_brute_force_finds(spacing: tuple[float, float, float]) -> None:
    steps = [Fraction(str(step)) for step in spacing]
    found = set()
    for i, j, k in product(range(23), range(11), range(11)):
        a, b, c = (1 + index * step for index, step in zip((i, j, k), steps, strict=True))
        if abs(a * b**2 * c**2 - 2) <= Fraction(1, 10):
            found.add((float(a), float(b), float(c)))
    points = grid_points(spacing)
    assert points == sorted(found) and len(points) == len(found) >= 1
    assert (PAPER in points) == (spacing[1] in (0.1, 0.05))
    for point in points:
        assert compound_scale(1, *point).flops_factor == pytest.approx(2, abs=0.1 + 1e-9)


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        ((0.2, 0.1, 0.005), r"`spacing`=0.2 0.1 0.005 \(allowed: 0.01 to 1 each\)"),
        ((0.2, 1.1, 0.1), r"allowed: 0.01 to 1 each"),
        ((math.nan, 0.1, 0.1), r"allowed: 0.01 to 1 each"),
        ((0.6, 0.9, 0.9), r"no point of the grid has .* within 0.1 of 2 \(give smaller steps\)"),
    ],
)
def test_a_grid_without_points_is_refused(spacing: Sequence[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        grid_points(spacing)


def test_points_that_round_to_one_network_are_one_trial() -> None:
    points = [(1.25, 1.1, 1.15), PAPER, (1.2, 1.1, 1.2), (2.0, 1.0, 1.0)]
    trials, equal = plan_trials(Costs("b0", num_classes=10, image_size=44), points)
    assert [trial.name for trial in trials] == ["a1.2_b1.1_g1.15", "a1.2_b1.1_g1.2", "a2_b1_g1"]
    assert [(e.alpha, e.beta, e.gamma, e.kept) for e in equal] == [(1.25, 1.1, 1.15, "a1.2_b1.1_g1.15")]
    kept, left_out = (scale_phi(get_backbone("b0"), 1, *point) for point in (PAPER, points[0]))
    assert kept.stages == left_out.stages
    assert [trial.image_size for trial in trials] == [51, 53, 44]
    assert trials[0].backbone == "b0@phi=1" and trials[2].backbone == "b0@phi=1,alpha=2,beta=1,gamma=1"
    for trial in trials:
        assert trial.num_macs == count_macs(get_backbone(trial.backbone), trial.image_size, 10)
    network = build_classifier(trials[2].backbone, 10)
    assert trials[2].num_parameters == sum(parameter.numel() for parameter in network.parameters())


# Rounds


def make_study(scores: Sequence[Sequence[float]], budget: int | None = None, steps: int = 100) -> Study:
    """A search over as many trials as there are rows, each with a seed a column; the first is the paper's."""
    trials = tuple(
        Trial(f"t{k}", "b0", {"alpha": 1.2 + k, "beta": 1.1, "gamma": 1.15}, 40, 10**7 * (k + 1), 10**6)
        for k in range(len(scores))
    )
    options = {"baseline": "b0", "dataset": "digits", "image_size": 40, "steps": steps, "budget_steps": budget}
    options["seeds"] = list(range(len(scores[0])))
    facts = {"num_classes": 10, "train_images": 1257, "val_images": 180, "baseline_macs": 10**7, "equal": []}
    return plan_next_round(Study("search", options, {"bn": "adapt"}, facts, trials), {})


def outcomes_of(study: Study, scores: Sequence[Sequence[float]]) -> dict[str, Outcome]:
    """Of the runs that are planned; a score that is not a number is a failure."""
    found = {}
    for run in study.runs:
        score = scores[int(run.trial[1:])][run.seed]
        place = {"hardware": {"gpus": [], "cores": 2, "cpu": "a CPU"}, "versions": {"torch": "2"}}
        done = Outcome(score, "top1", {"top1": score}, 1.0, 2.5, **place, git_commit="abc")
        found[run.id] = Outcome(error="killed") if math.isnan(score) else done
    return found


def test_without_a_budget_every_trial_has_every_seed_in_one_round() -> None:
    scores = [[0.5, 0.6], [0.7, 0.8]]
    study = make_study(scores)
    assert [(run.id, run.steps, run.round) for run in study.runs] == [
        *(("t0_s0", 100, 0), ("t1_s0", 100, 0), ("t0_s1", 100, 0), ("t1_s1", 100, 0))
    ]
    assert plan_next_round(study, outcomes_of(study, scores)) == study
    assert [run.id for run in make_study([[0.5]]).runs] == ["t0_s0"]


def test_halving_keeps_the_highest_means_of_equals_the_first() -> None:
    scores = [[0.1, 0.9], [0.5, 0.5], [0.2, 0.2], [0.9, 0.8], [0.6, 0.4], [0.3, 0.3]]
    study = make_study(scores, budget=60)
    assert {run.steps for run in study.runs} == {5} and len(study.runs) == 12
    second = plan_next_round(study, outcomes_of(study, scores))
    assert [run.id for run in second.runs[12:]] == ["rung1_t3_s0", "rung1_t0_s0", "rung1_t3_s1", "rung1_t0_s1"]
    assert {run.steps for run in second.runs[12:]} == {15} and {run.round for run in second.runs[12:]} == {1}
    assert plan_next_round(second, outcomes_of(second, scores)) == second
    order = ranked(rank_rounds(second, outcomes_of(second, scores)))
    assert [standing.trial.name for standing in order] == ["t3", "t0", "t1", "t4", "t5", "t2"]
    assert [standing.round for standing in order] == [1, 1, 0, 0, 0, 0]


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(UserError, match=r"`budget_steps`=5: too few for 6 trials in 2 rounds \(allowed: at least 12"):
        make_study([[0.1]] * 6, budget=5)


# Noise


def anova(scores: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Mean square of the residuals and the p-value of the seeds, by least squares with dummy variables."""
    networks, seeds = scores.shape
    rows = list(product(range(networks), range(seeds)))
    by_network = np.array([[i == k for k in range(networks)] for i, _ in rows], float)
    by_seed = np.array([[j == k for k in range(1, seeds)] for _, j in rows], float)
    squares = []
    for design in (np.hstack([by_network, by_seed]), by_network):
        fit = design @ np.linalg.lstsq(design, scores.ravel(), rcond=None)[0]
        squares.append(float(np.sum((scores.ravel() - fit) ** 2)))
    freedom = (networks - 1) * (seeds - 1)
    f = (squares[1] - squares[0]) / (seeds - 1) / (squares[0] / freedom)
    return squares[0] / freedom, float(stats.f.sf(f, seeds - 1, freedom))


def test_noise_is_what_scipy_and_least_squares_find() -> None:
    rng = np.random.default_rng(0)
    for networks, seeds in ((2, 2), (3, 3), (7, 4), (19, 3)):
        scores = (
            70 + rng.normal(0, 3, (networks, 1)) + rng.normal(0, 2, (1, seeds)) + rng.normal(0, 1, (networks, seeds))
        )
        noise = measure_noise(scores.tolist())
        assert noise is not None and (noise.num_networks, noise.num_seeds) == (networks, seeds)
        expected = stats.f_oneway(*scores)
        assert (noise.f, noise.p_value) == pytest.approx((expected.statistic, expected.pvalue))
        assert noise.within == pytest.approx(math.sqrt(np.mean(scores.var(1, ddof=1))))
        assert noise.between == pytest.approx(scores.mean(1).std(ddof=1))
        assert noise.between_by_noise == pytest.approx(noise.within / math.sqrt(seeds))
        residual, seed_p_value = anova(scores)
        assert noise.paired == pytest.approx(math.sqrt(residual))
        assert noise.seed_p_value == pytest.approx(seed_p_value)
        variance = noise.between**2 - noise.within**2 / seeds  # of the networks, without the noise of their means
        assert noise.icc == pytest.approx(max(0, variance / (variance + noise.within**2)))


def test_two_networks_differ_significantly_where_the_paired_t_test_says_so() -> None:
    first = np.array([50.0, 52.0, 57.0, 51.0])
    second = np.array([51.5, 52.5, 59.5, 51.0])
    noise = measure_noise([first.tolist(), second.tolist()])
    assert noise is not None
    for shift, is_significant in ((noise.significant() + 1e-9, True), (noise.significant() - 1e-9, False)):
        moved = first - first.mean() + second.mean() + shift
        assert (stats.ttest_rel(moved, second).pvalue < 0.05) == is_significant
    assert noise.significant_for_all() == pytest.approx(noise.significant(), rel=1e-3)  # any two of two are one pair
    assert noise.significant(16) == pytest.approx(stats.t.ppf(0.975, 15) * noise.paired * math.sqrt(2 / 16))


def test_any_two_of_three_need_tukeys_quantile() -> None:
    noise = measure_noise([[1, 2, 4], [3, 3, 3], [5, 9, 7]])
    assert noise is not None
    # Of any table of the studentized range: q(0.95; 3 groups, 4 degrees of freedom) = 5.04.
    assert noise.significant_for_all() == pytest.approx(5.04 * noise.paired / math.sqrt(3), rel=1e-3)


def test_noise_of_odd_scores() -> None:
    assert measure_noise([]) is measure_noise([[1.0, 2.0]]) is measure_noise([[1.0], [2.0]]) is None
    equal = measure_noise([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]])
    assert equal is not None and (equal.within, equal.between, equal.icc) == (0, 0, 0)
    assert equal.p_value > 0.3 and equal.significant_for_all() == 0
    exact = measure_noise([[0.1, 0.1, 0.1], [0.3, 0.3, 0.3]])
    assert exact is not None and (exact.p_value, exact.icc, exact.within) == (0, 1, 0)


# What the report says


def said(scores: Sequence[Sequence[float]], budget: int | None = None) -> list[str]:
    study = make_study(scores, budget)
    while (extended := plan_next_round(study, outcomes_of(study, scores))) != study:
        study = extended
    return conclusions(rank_rounds(study, outcomes_of(study, scores)), 180)


def test_noise_is_said_in_words() -> None:
    alike = said([[0.60, 0.70, 0.65], [0.70, 0.60, 0.66], [0.64, 0.66, 0.62]])
    assert alike[0] == "No network can be told from the best: all 3 lie within the noise."
    assert "That is no more than chance would cause (F = " in alike[1] and ": 0% of the variance" in alike[1]
    assert any(
        line.startswith("The paper's constants, 1.2, 1.1, 1.15, are number 2 of 3, 0.33 points below") for line in alike
    )
    assert alike[-1].startswith("One val image is 0.56 points.")

    two = said([[0.30, 0.31, 0.32], [0.81, 0.80, 0.79], [0.80, 0.79, 0.78], [0.35, 0.33, 0.34]])
    assert two[0] == "The best 2 of 4 networks cannot be told apart."
    assert "That is more than chance would cause" in two[1] and "p = under 0.001): 100% of" in two[1]
    assert any("are number 4 of 4, 49.00 points below the best: a significant difference." in line for line in two)
    assert any(
        line.startswith("The accuracy's rank correlations: with alpha 0.20 (p = 0.800), multiply-adds 0.20")
        for line in two
    )

    one = said([[0.9, 0.91], [0.1, 0.11], [0.2, 0.21]])
    assert one[0] == "The best network is better than each of the other 2 by more than the noise explains."


def test_a_single_seed_says_nothing_of_the_noise() -> None:
    lines = said([[0.5], [0.6]])
    assert lines[0].startswith("There is no measure of the noise") and "all may be chance" in lines[0]


def test_a_doubtful_discard_is_said() -> None:
    scores = [[0.5, 0.6, 0.7], [0.6, 0.7, 0.5], [0.7, 0.5, 0.6], [0.5, 0.6, 0.6], [0.6, 0.5, 0.7], [0.6, 0.6, 0.6]]
    lines = said(scores, budget=60)
    assert (
        "After 5 steps 2 of 6 networks were kept, though 6 could not be told apart: there, chance decided too." in lines
    )


def test_the_report_of_a_half_done_search_with_a_failure(tmp_path: Path) -> None:
    scores = [[0.5, math.nan, 0.6], [0.8, 0.7, 0.75], [0.7, 0.72, 0.8]]
    study = make_study(scores)
    outcomes = outcomes_of(study, scores)
    del outcomes["t1_s2"]
    (current,) = rank_rounds(study, outcomes)
    text = markdown("x", study, outcomes, search_report(study, outcomes))
    assert "- 2 of 3 networks lack a run: they are left out of the comparisons." in text
    assert [standing.trial.name for standing in current.complete] == ["t2"]
    assert "7 of 9 planned runs are done, 1 failed." in text
    assert "| 2, 1 failed | 55.00 |" in text and "There is no measure of the noise" in text
    assert "- processor time: 18 s for 7 runs" in text
    outcomes["t1_s2"] = replace(outcomes["t1_s1"], score=0.75)
    (current,) = rank_rounds(study, outcomes)
    assert current.noise == measure_noise([[70, 72, 80], [80, 70, 75]]) and len(current.equal_to_best()) == 2
    assert "Nothing yet." in markdown("x", study, {}, search_report(study, {}))


# The proxy task and the command line


def test_the_proxy_task_is_a_recipe_of_finetune() -> None:
    config = parse_config(["--config", str(PROXY), "--trainer.max_epochs", "-1"])[0]
    settings = proxy_settings(PROXY, ["optim.lr=0.1", "data.batch_size=8"])
    assert {**flatten(config.to_dict()), **settings}["optim.lr"] == 0.1
    assert settings["data.batch_size"] == 8 and settings["augment"] == "none"
    assert not settings.keys() & {"dataset", "backbone", "seed"}


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

    with open(out / "report.csv", newline="") as file:
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


def test_a_run_that_another_process_computes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study([[0.1, 0.2]])
    write_study(tmp_path, study)
    taken, held = study.runs[1], threading.Event()

    def other() -> None:
        with locked(run_job(tmp_path, study, taken).lock_file):
            held.set()
            launched.wait(10)
            write_json(tmp_path / "runs" / f"{taken.id}.json", {"score": 0.2})  # whole, as a run is

    launched, ids = threading.Event(), []

    def local(launch: Launch) -> None:
        ids.append(list(launch.ids))
        (tmp_path / "runs" / f"{launch.ids[0]}.json").write_text(json.dumps({"score": 0.1}))
        launched.set()

    monkeypatch.setitem(LAUNCHERS, "local", local)
    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(10)
    launch = Launch(tmp_path, [], "run", [], "", "")
    assert conduct(tmp_path, study, plan_next_round, "local", launch) == study
    thread.join()
    assert ids == [["t0_s0", "t0_s1"]]
    assert read_outcomes(tmp_path, study)[taken.id].score == 0.2


def test_a_run_that_never_ends_well_is_not_started_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, ids = make_study([[0.1]]), []
    monkeypatch.setitem(LAUNCHERS, "local", lambda launch: ids.append(launch.ids))
    assert conduct(tmp_path, study, plan_next_round, "local", Launch(tmp_path, [], "run", [], "", "")) == study
    assert ids == [["t0_s0"]]


def test_a_search_is_written_as_a_sweep_a_round_at_a_time(
    tmp_path: Path, study_stub: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid"
    words = (*SIX, "--seeds", "0", "--budget_steps", "60", "--launcher", "wandb")
    assert search(out, *words) == 0
    assert "6 runs written to" in capfd.readouterr().out
    sweep = load_sweep(out / "sweep.yaml")
    assert sweep.program == "transfer"
    for values in draw(sweep, None):
        assert entry_point(sweep.arguments(values)) == 0
    assert search(out, *words) == 0
    assert [values["run"] for values in draw(load_sweep(out / "sweep.yaml"), None)] == [
        *("rung1_a2_b1_g1_s0", "rung1_a1.4_b1.2_g1_s0")
    ]
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
        (("--image_size", "31"), "--image_size 31 (allowed: at least 32)"),
        (("--threads", "0"), "--threads 0 (allowed: at least 1)"),
        (("--workers", "0"), "--workers 0 (allowed: at least 1)"),
        (("--seeds", "0", "0"), "--seeds 0 0 (allowed: different numbers of at least 0)"),
        (("--seeds", "-1"), "--seeds -1 (allowed: different numbers of at least 0)"),
        (("--config", "nowhere.yaml"), "--config nowhere.yaml: no such file"),
        (("--set", "optim.lr"), "--set optim.lr: give KEY=VALUE, for example --set optim.lr=0.1"),
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
    write_study(tmp_path, replace(study, kind="sweep"))
    assert search(tmp_path) == 2
    assert f"holds a study of another kind: efficientnet-transfer scale sweep {tmp_path}" in capsys.readouterr().err
    assert script.main(["run", str(tmp_path), "--run", "t0_s1"]) == 2
    assert "unknown run 't0_s1'; did you mean 't0_s0'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main(["serch", str(tmp_path)])
    assert "invalid choice: 'serch'" in capsys.readouterr().err


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    study = make_study([[0.1, 0.2], [0.3, 0.4]])
    write_study(tmp_path, study)
    assert read_study(tmp_path) == study
    more = study.extended([TrialRun("x", "y", 0, 1, 1)], [Trial("y", "b1", {"depth": 2.0}, 32, 1, 1)])
    assert more.trial("y").backbone == "b1" and more.run("x").trial == "y" and len(more.runs) == 5
