"""The paper's ablations: what Figures 3, 4 and 8 plan, and that the curves are the runs' numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from transfer.commands import scale as script
from transfer.commands.scale import sweep as scale_sweep
from transfer.costs.counts import count_macs
from transfer.costs.network_costs import Costs
from transfer.errors import UserError
from transfer.experiments.scaling.ablation import Figure, Point, default_values, figure_points, plan_networks
from transfer.experiments.scaling.ablation_report import ablation_report, read_curves
from transfer.experiments.scaling.figures import draw_curves
from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study, Trial, read_study
from transfer.experiments.scaling.ranking import rank_rounds
from transfer.experiments.scaling.report import markdown
from transfer.experiments.scaling.rounds import round_runs, search_rounds
from transfer.markdown import csv_text
from transfer.networks.registry import get_backbone
from transfer.networks.scaling import compound_scale
from transfer.statistics import mean_interval

PAPER = (1.2, 1.1, 1.15)


def points_of(figure: Figure, **chosen: Sequence[float]) -> list[Point]:
    options = {"phis": (0, 1, 2), "constants": PAPER, **default_values(figure, (0, 1, 2), PAPER), **chosen}
    return figure_points(figure, options)


def test_figure_3_has_the_papers_points() -> None:
    points = points_of(3)
    curves = {series: [p.value for p in points if p.series == series] for series in ("width", "depth", "resolution")}
    assert curves == {
        "width": [1.0, 1.4, 1.8, 2.6, 3.8, 5.0],
        "depth": [1.0, 2.0, 3.0, 4.0, 6.0, 8.0],
        "resolution": [1.0, 1.3, 1.5, 1.7, 1.9, 2.2, 2.5],
    }
    assert len(points) == 19
    for point in points:
        coefficients = {"width": point.width, "depth": point.depth, "resolution": point.resolution}
        assert coefficients.pop(point.series) == point.value and set(coefficients.values()) == {1.0}


def test_networks_of_figure_3_are_counted_and_the_baseline_is_one_of_them() -> None:
    points = points_of(3, widths=(1, 1.4), depths=(1, 4), resolutions=(1, 2.5))
    trials, named = plan_networks(Costs("b0"), points)
    by_name = {trial.name: trial for trial in trials}
    assert [trial.backbone for trial in trials] == ["b0", "b0@w=1.4", "b0@d=4", "b0@r=2.5"]
    assert [trial.num_macs for trial in trials] == sorted(trial.num_macs for trial in trials)
    assert [point.trial for point in named] == [
        *("d1_w1_r1", "d1_w1.4_r1", "d1_w1_r1", "d4_w1_r1", "d1_w1_r1", "d1_w1_r2.5")
    ]
    assert by_name["d1_w1_r1"].num_macs == 385_814_752
    assert by_name["d4_w1_r1"].num_macs == pytest.approx(1.575e9, rel=1e-3)  # counted elsewhere for Table 7
    assert by_name["d4_w1_r1"].num_parameters == pytest.approx(20.09e6, rel=1e-3)
    assert by_name["d1_w1_r2.5"].image_size == 560
    for trial in trials:
        assert trial.num_macs == count_macs(get_backbone(trial.backbone), trial.image_size)


def test_figure_4_is_a_width_curve_for_each_of_four_bases() -> None:
    points = points_of(4)
    assert list(dict.fromkeys((p.series, p.depth, p.resolution) for p in points)) == [
        *(("d=1, r=1", 1, 1), ("d=1, r=1.3", 1, 1.3), ("d=2, r=1", 2, 1), ("d=2, r=1.3", 2, 1.3))
    ]
    assert [point.width for point in points] == [1.0, 1.4, 1.8, 2.6, 3.8, 5.0] * 4
    assert {len({p.series for p in points_of(4, depths=(1, 2, 3))})} == {6}


def test_figure_8_costs_the_same_along_each_curve() -> None:
    points = points_of(8)
    assert [p.value for p in points if p.series == "depth"] == [1.0, 1.92, 3.69]
    assert [p.value for p in points if p.series == "width"] == [1.0, 1.39, 1.92]
    assert [p.value for p in points if p.series == "resolution"] == [1.0, 1.39, 1.92]
    for point in points:
        if point.series == "compound":
            factors = compound_scale(point.value)
            assert (point.depth, point.width, point.resolution) == (factors.depth, factors.width, factors.resolution)
        place = [p.value for p in points if p.series == point.series].index(point.value)
        cost = point.depth * point.width**2 * point.resolution**2
        assert cost == pytest.approx((1.2 * 1.1**2 * 1.15**2) ** place, rel=0.01)


def test_values_are_sorted_and_what_rounds_to_one_network_is_trained_once() -> None:
    points = points_of(3, widths=(1.4, 1, 1.01), depths=(1, 1), resolutions=(1,))
    assert [(p.series, p.value) for p in points] == [
        *(("width", 1), ("width", 1.01), ("width", 1.4), ("depth", 1), ("resolution", 1))
    ]
    trials, named = plan_networks(Costs("lite0", num_classes=10, image_size=32), points)
    assert [trial.name for trial in trials] == ["d1_w1_r1", "d1_w1.4_r1"]
    assert [point.trial for point in named] == ["d1_w1_r1", "d1_w1_r1", "d1_w1.4_r1", "d1_w1_r1", "d1_w1_r1"]


def test_too_small_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"resolution 0.5 of 44 px is 22 \(allowed: at least 32\)"):
        plan_networks(Costs("b0", image_size=44), [Point("resolution", 0.5, 1, 1, 0.5)])


# The report


def make_study(scores: Sequence[Sequence[float]]) -> tuple[Study, dict[str, Outcome]]:
    """Figure 8 with a baseline, a network of each single dimension and a compound one, a row each; a column a seed."""
    names = ("base", "width", "depth", "resolution", "compound")
    trials = tuple(Trial(name, f"b0@{name}", {}, 40, 10**7 * (k + 1), 10**6) for k, name in enumerate(names))
    points = [Point(name, value, 1, 1, 1, trial) for name in names[1:] for value, trial in ((0, "base"), (1, name))]
    seeds = list(range(len(scores[0])))
    options = {"baseline": "b0", "dataset": "digits", "image_size": 40, "steps": 5, "seeds": seeds, "figure": 8}
    facts: dict[str, Any] = {"train_images": 1257, "val_images": 180, "baseline_macs": 10**7}
    study = Study("sweep", options, {"augment": "none"}, {**facts, "points": list(map(asdict, points))}, trials)
    study = study.extended(round_runs(search_rounds(5, 5, None), 0, trials, seeds))
    place = {"hardware": {"gpus": [], "cores": 2, "cpu": "a CPU"}, "versions": {"torch": "2"}}
    outcomes = {
        run.id: Outcome(scores[names.index(run.trial)][run.seed], "top1", {}, 1.0, 2.5, **place) for run in study.runs
    }
    return study, outcomes


def test_the_compound_rule_is_set_against_the_network_of_nearest_cost(tmp_path: Path) -> None:
    study, outcomes = make_study([[0.5, 0.51], [0.6, 0.61], [0.7, 0.711], [0.8, 0.81], [0.81, 0.82]])
    [only] = rank_rounds(study, outcomes)
    text = markdown("x", study, outcomes, ablation_report(study, outcomes))
    assert "width: 50.50% at 0, at most 60.50% at 1, +10.00 points, more than the noise explains." in text
    against = "compound, phi = 1 (50 M multiply-adds), against"
    assert f"{against} width alone (20 M): +21.00 points, more than the noise explains." in text
    assert f"{against} resolution alone (40 M): +1.00 points, more than the noise explains." in text
    assert "10 of 10 planned runs are done" in text and "25 s for 10 runs" in text
    png, svg, pdf = draw_curves(4, read_curves(study, only), tmp_path / "4.png")
    assert png.read_bytes().startswith(b"\x89PNG") and b"<svg" in svg.read_bytes()
    assert pdf.read_bytes().startswith(b"%PDF")
    noisy, outcomes = make_study([[0.5, 0.7], [0.7, 0.5], [0.6, 0.5], [0.6, 0.9], [0.7, 0.7]])
    text = markdown("x", noisy, outcomes, ablation_report(noisy, outcomes))
    assert "resolution alone (40 M): -5.00 points, no more than the noise explains." in text


def test_a_sweep_that_has_begun_is_reported_without_guesses() -> None:
    study, outcomes = make_study([[0.5], [0.6], [0.7], [0.8], [0.81]])
    some = {"base_s0": outcomes["base_s0"], "depth_s0": Outcome(error="killed")}
    report = ablation_report(study, some)
    text = markdown("x", study, some, report)
    assert "1 of 5 planned runs are done, 1 failed" in text and "against width alone" not in text
    assert "There is no measure of the noise" in text and "| depth | 1 |" in text and "0, 1 failed" in text
    rows = list(csv.DictReader(csv_text(report.rows).splitlines()))
    assert [(row["val"], row["failed"]) for row in rows[2:4]] == [("50.0", "0"), ("", "1")]


# The command


def test_a_sweep_runs_and_its_table_is_made_of_the_runs_files(
    tmp_path: Path, study_stub: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fig3"
    values = ("--widths", "1,1.4", "--depths", "1,2", "--resolutions", "1,1.3")
    words = ("sweep", str(out), "--baseline", "lite0", *values, "--seeds", "0", "3", "--steps", "7")
    assert script.main([*words, "--workers", "3"]) == 0
    text = capfd.readouterr().out
    assert "6 points, 4 different networks of 22 to" in text and "8 runs of 7 steps: 56 steps in all" in text
    assert len(study_stub()) == 8 and "8 of 8 planned runs are done" in text
    config = yaml.safe_load((out / "runs" / "d1_w1_r1.3_s3.yaml").read_text())
    assert (config["backbone"], config["image_size"], config["seed"]) == ("lite0@r=1.3", round(44 * 1.3), 3)

    with open(out / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["series"], float(row["value"])) for row in rows] == [
        (series, value) for series, last in (("width", 1.4), ("depth", 2), ("resolution", 1.3)) for value in (1, last)
    ]
    for row in rows:
        name = "d{:g}_w{:g}_r{:g}".format(*(float(row[key]) for key in ("depth", "width", "resolution")))
        scores = [100 * json.loads((out / f"runs/{name}_s{seed}.json").read_text())["score"] for seed in (0, 3)]
        mean = mean_interval(scores)
        assert [float(row[key]) for key in ("val", "val_low", "val_high")] == pytest.approx(
            [mean.value, mean.low, mean.high], abs=1e-4
        )
        assert int(row["macs"]) == count_macs(get_backbone(row["backbone"]), int(row["image_size"]), 10)
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")

    assert script.main(["sweep", str(out)]) == 0 and script.main([*words, "--figure", "3"]) == 0
    assert len(study_stub()) == 8
    assert script.main(["sweep", str(out), "--figure", "4"]) == 2
    assert "figure: 3 -> 4" in capfd.readouterr().err
    assert read_study(out).facts["baseline_macs"] == int(rows[0]["macs"])
    assert script.main(["report", str(out), "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    means = sorted({round(network["mean"]["value"], 4) for network in figures["networks"]})
    assert means == sorted({float(row["val"]) for row in rows})
    assert len(figures["facts"]["points"]) == 6 and len(figures["noise"]) == 1


def test_figure_8_runs_by_the_users_own_rule(tmp_path: Path, study_stub: Callable[[], list[str]]) -> None:
    out = tmp_path / "out"
    words = ("--figure", "8", "--phis", "0,1", "--constants", "2,1,1", "--widths", "1,1.4", "--resolutions", "1,1.3")
    assert script.main(["sweep", str(out), *words, "--baseline", "lite0", "--seeds", "0"]) == 0
    study = read_study(out)
    assert study.options["depths"] == [1.0, 2.0] and study.options["widths"] == [1.0, 1.4]
    assert [point["trial"] for point in study.facts["points"]][-2:] == ["d1_w1_r1", "d2_w1_r1"]
    assert len(study_stub()) == len(study.trials) == 4  # by this rule, compound and depth are one network
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--phis", "1"), "--phis belongs to Figure 8 (given: --figure 3)"),
        (("--figure", "4", "--constants", "1.2,1.1,1.15"), "--constants belongs to Figure 8 (given: --figure 4)"),
        (("--figure", "8", "--constants", "1.2,1.1"), "--constants has 2 numbers (needed: alpha, beta, gamma)"),
        (("--figure", "8", "--constants", "2,2,2"), "alpha * beta^2 * gamma^2 is 32"),
        (("--figure", "8", "--phis", "0,40"), "phi=40"),
        (("--widths", "0.01"), "width coefficient 0.01 (allowed: 0.1 to 10)"),
        (("--widths", "nan"), "width coefficient nan (allowed: 0.1 to 10)"),
        (("--baseline", "lite0@phi=1", "--widths", "2"), "is scaled already"),
        (("--baseline", "b9"), "unknown backbone 'b9'"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], message: str
) -> None:
    assert script.main(["sweep", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_numbers_are_separated_by_commas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scale_sweep.main([str(tmp_path), "--widths", "1,x"])
    assert "argument --widths: invalid numbers value: '1,x'" in capsys.readouterr().err
    assert scale_sweep.numbers("1, 2.5") == [1.0, 2.5]
