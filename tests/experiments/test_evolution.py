"""Regularised evolution: the space, what is planned from what is known, and a search killed and continued."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest

from tests.support.runs import ROOT, environment
from transfer.commands import scale as script
from transfer.costs.counts import count_macs
from transfer.experiments import child_run
from transfer.experiments.scaling.evolution.report import by_objective, differences, evolution_report
from transfer.experiments.scaling.evolution.search import Evolution, Space, Stages, plan_next_networks, stage_choices
from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study, read_study
from transfer.experiments.scaling.report import markdown
from transfer.networks.notation import format_blocks
from transfer.networks.registry import get_variant
from transfer.networks.rows import StageRow
from transfer.networks.scaling import search_objective

B0 = Space(get_variant("b0").baseline.stages)


def test_the_space_is_the_baselines_with_other_blocks() -> None:
    assert stage_choices(B0.baseline[0]) == {
        **{"kernel_size": (3, 5), "expand_ratio": (1,), "se_ratio": (0.0, 0.25), "repeats": (1, 2)},
    }
    assert stage_choices(B0.baseline[5]) == {
        **{"kernel_size": (3, 5), "expand_ratio": (3, 6), "se_ratio": (0.0, 0.25), "repeats": (3, 4, 5)},
    }
    assert B0.size == 8 * 24**5 * 16
    fused = get_variant("v2-b0").baseline.stages
    assert stage_choices(fused[1]) == {
        **{"kernel_size": (3, 5), "expand_ratio": (3, 4, 6), "se_ratio": (0.0,), "repeats": (1, 2, 3)},
    }
    for name in ("b0", "lite0", "v2-b0"):
        space = Space(get_variant(name).baseline.stages)
        for seed in range(20):
            stages = space.draw(Random(seed))
            assert get_variant(f"{name}@blocks={format_blocks(stages)}").baseline.stages == stages


def test_a_mutation_changes_one_field_of_one_stage() -> None:
    random = Random(0)
    stages = B0.baseline
    seen = set()
    for _ in range(300):
        child = B0.mutate(stages, random)
        changed = [(k, name) for k, name, _ in B0.fields if getattr(child[k], name) != getattr(stages[k], name)]
        assert len(changed) == 1 and all(getattr(child[k], name) in values for k, name, values in B0.fields)
        seen |= set(changed)
        stages = child
    assert seen == {(k, name) for k, name, _ in B0.fields}
    assert differences(B0.baseline, B0.baseline) == "none: the baseline"
    assert differences(B0.mutate(B0.baseline, Random(3)), B0.baseline).count(":") == 1


def evolve(evolution: Evolution, score: Callable[[Stages], float]) -> list[tuple[Stages, float, int | None]]:
    history: list[tuple[Stages, float, int | None]] = []
    while planned := evolution.plan([(stages, value) for stages, value, _ in history]):
        history += [(stages, score(stages), parent) for stages, parent in planned]
    return history


def test_the_oldest_leaves_the_population_however_good_it_is() -> None:
    """Worked by hand: so many are drawn that the best alive is the parent."""
    scores = iter([9.0, 1.0, 2.0, 3.0, 8.0, 4.0, 5.0, 5.0])
    history = evolve(Evolution(B0, 3, 200, 1, 8, 0), lambda _: next(scores))
    # Alive: 9 1 2 | 1 2 3 | 2 3 8 | 3 8 4 | 8 4 5
    assert [parent for *_, parent in history] == [None, None, None, 0, 3, 4, 4, 4]
    assert history[0][0] == B0.baseline and len({stages for stages, *_ in history}) == 8


def test_children_planned_together_have_one_population() -> None:
    # Alive: 1 2 for the three of 9 10 3 | 10 3 for the other two, of which 4 is the last one's elder sibling
    scores = iter([1.0, 2.0, 9.0, 10.0, 3.0, 40.0, 5.0])
    history = evolve(Evolution(B0, 2, 200, 3, 7, 0), lambda _: next(scores))
    assert [parent for *_, parent in history] == [None, None, 1, 1, 1, 3, 3]
    alone = Evolution(B0, 4, 2, 1, 2, 0).plan([])
    assert len(alone) == 2  # never more than are to be tried


def test_what_is_planned_is_decided_by_the_seed_and_the_results() -> None:
    evolution = Evolution(B0, 4, 2, 1, 12, 5)
    first = evolve(evolution, lambda stages: float(sum(row.repeats for row in stages)))
    assert first == evolve(evolution, lambda stages: float(sum(row.repeats for row in stages)))
    assert first != evolve(Evolution(B0, 4, 2, 1, 12, 6), lambda stages: float(sum(row.repeats for row in stages)))
    cut = [(stages, value) for stages, value, _ in first[:7]]
    assert evolution.plan(cut) == [(first[7][0], first[7][2])]


def test_a_whole_space_is_tried_without_a_repetition() -> None:
    small = Space((StageRow(1, 3, 1, 8, 8, 1), StageRow(6, 3, 2, 8, 8, 1)))
    history = evolve(Evolution(small, 5, 2, 3, small.size, 0), lambda stages: float(stages[0].repeats))
    assert small.size == 8 * 16 and len({stages for stages, *_ in history}) == len(history) == 8 * 16


def test_it_finds_more_than_chance_does_in_as_many_tries() -> None:
    """A separable toy: how many of the fields have their best value, which is another one in each stage."""
    best = B0.draw(Random("the best"))

    def right(stages: Stages) -> float:
        return float(sum(getattr(stages[k], name) == getattr(best[k], name) for k, name, _ in B0.fields))

    evolved, drawn = [], []
    for seed in range(10):
        evolved.append(max(value for _, value, _ in evolve(Evolution(B0, 10, 4, 1, 150, seed), right)))
        random = Random(f"chance {seed}")
        drawn.append(max(right(B0.draw(random)) for _ in range(150)))
    assert min(evolved) > max(drawn)


# The study


def make_study(scores: Sequence[Sequence[float]], **options: int) -> tuple[Study, dict[str, Outcome]]:
    """A study of as many networks as there are rows, a column a seed, with its outcomes."""
    own = {"population": 2, "sample": 2, "children": 1, "networks": len(scores), "search_seed": 0, "exponent": -0.07}
    shared = {"baseline": "lite0", "dataset": "digits", "image_size": 32, "steps": 5}
    facts = {"num_classes": 10, "train_images": 1257, "val_images": 180, "baseline_macs": 10**7, "target_macs": 10**7}
    seeds = list(range(len(scores[0])))
    study = Study("evolve", {**shared, **own, "seeds": seeds, **options}, {"augment": "none"}, facts)
    place = {"hardware": {"gpus": [], "cores": 2, "cpu": "a CPU"}, "versions": {"torch": "2"}}
    outcomes: dict[str, Outcome] = {}
    while (more := plan_next_networks(study, outcomes)) != study:
        study = more
        for run in study.runs:
            outcomes[run.id] = Outcome(scores[int(run.trial[1:])][run.seed], "top1", {}, 1.0, 2.5, **place)
    return study, outcomes


def test_networks_are_ranked_by_the_objective_and_set_against_the_baseline() -> None:
    study, outcomes = make_study([[0.5, 0.51], [0.6, 0.62], [0.4, 0.41], [0.7, 0.71]])
    only = by_objective(study, outcomes)
    for standing in only.standings:
        scores = [outcomes[f"{standing.trial.name}_s{seed}"].score for seed in (0, 1)]
        expected = [100 * search_objective(score or 0, standing.trial.num_macs, 1e7) for score in scores]
        assert list(standing.scores.values()) == pytest.approx(expected)
    assert [standing.trial.name for standing in only.standings] == ["n003", "n001", "n000", "n002"]
    best, base = only.standings[0], only.standings[2]
    assert best.mean and base.mean and study.trials[0].backbone == "lite0"
    text = markdown("x", study, outcomes, evolution_report(study, outcomes))
    assert f"The best is n003: objective {best.mean.value:.2f}, the baseline's {base.mean.value:.2f}" in text
    assert f"with the same seeds {best.mean.value - base.mean.value:+.2f} (95% interval" in text
    assert "It is the best of 4, so partly a lucky one" in text and "This is a small search: 4 networks of 5" in text
    assert "The 1 random networks have" in text and "| n000 |  | none: the baseline |" in text
    worse, outcomes = make_study([[0.9, 0.91], [0.6, 0.62], [0.4, 0.41]])
    text = markdown("x", worse, outcomes, evolution_report(worse, outcomes))
    assert "Nothing that was tried is better than the baseline" in text
    text = markdown("x", worse, {}, evolution_report(worse, {}))
    assert "The baseline is not done yet." in text and "Nothing yet." in text


TINY = ("--baseline", "lite0", "--image_size", "32", "--seeds", "0", "1", "--steps", "7", "--networks", "5")
TINY += ("--population", "2", "--sample", "2", "--children", "2")


@pytest.mark.slow
def test_an_evolution_killed_and_continued_is_the_uninterrupted_one(
    tmp_path: Path,
    study_stub: Callable[[], list[str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert script.main(["evolve", str(whole), *TINY]) == 0
    text = capfd.readouterr().out
    assert f"5 of {8 * 24**5 * 16:,} networks, 10 runs of 7 steps" in text and "10 of 10 planned runs are done" in text
    macs = f"{count_macs(get_variant('lite0'), 32, 10) / 1e6:.1f} million"
    assert f"objective: accuracy * (multiply-adds / T)^-0.07, T = {macs} (lite0 at 32 px: {macs})" in text
    study = read_study(whole)
    assert len(study_stub()) == 10 and len({trial.backbone for trial in study.trials}) == 5

    code = (
        "from transfer.experiments import child_run; from transfer.commands import scale;"
        f"child_run.FINETUNE = {child_run.FINETUNE!r};"
        f"scale.main(['evolve', {str(killed)!r}, '--workers', '2', *{TINY!r}])"
    )
    variables = {**environment(), "STUB": "kill n003_s1", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=variables, start_new_session=True, capture_output=True, check=False
    )
    assert process.returncode == -9
    assert len(read_study(killed).trials) == 4 and not (killed / "runs" / "n003_s1.json").exists()
    assert script.main(["evolve", str(killed)]) == 0
    continued = read_study(killed)
    assert (continued.trials, continued.runs) == (study.trials, study.runs)
    assert (killed / "report.csv").read_text() == (whole / "report.csv").read_text()

    with open(whole / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["network"] for row in rows) == [f"n00{k}" for k in range(5)]
    values = [float(row["objective"]) for row in rows]
    assert values == sorted(values, reverse=True)
    for row in rows:
        scores = [json.loads((whole / f"runs/{row['network']}_s{seed}.json").read_text())["score"] for seed in (0, 1)]
        assert float(row["val"]) == pytest.approx(100 * sum(scores) / 2, abs=1e-4)
        factor = (int(row["macs"]) / study.facts["target_macs"]) ** -0.07
        assert float(row["objective"]) == pytest.approx(float(row["val"]) * factor, abs=1e-3)
        number = int(row["network"][1:])
        born = number // 2 * 2  # two at a time, of the two before
        assert row["parent"] == "" if number < 2 else row["parent"] in (f"n00{born - 2}", f"n00{born - 1}")
    assert (whole / "report.png").read_bytes().startswith(b"\x89PNG")
    assert script.main(["report", str(whole), "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [network["name"] for network in figures["networks"]] == [row["network"] for row in rows]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--baseline", "b0@phi=1"), "--baseline b0@phi=1: only the blocks of a published network can be searched"),
        (
            ("--baseline", "a_net.build"),
            "--baseline a_net.build: only the blocks of a published network can be searched",
        ),
        (("--baseline", "resnet50"), "resnet50 is not made of MBConv blocks"),
        (("--baseline", "b1"), "b1 is no baseline"),
        (("--population", "1"), "--population 1 (allowed: at least 2)"),
        (("--sample", "0"), "--sample 0 (allowed: at least 1)"),
        (("--children", "0"), "--children 0 (allowed: at least 1)"),
        (("--networks", "7"), "--networks 7 (allowed: at least 8)"),
        (("--target_macs", "0"), "search objective: target 0 (allowed: above 0)"),
        (("--exponent", "0.07"), "search objective: exponent 0.07 (allowed: at most 0)"),
    ],
)
def test_what_cannot_be_evolved_is_refused_before_anything_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: Sequence[str],
    message: str,
) -> None:
    (tmp_path / "a_net.py").write_text("def build(d, w, r): ...")
    monkeypatch.syspath_prepend(tmp_path)
    status = script.main(["evolve", str(tmp_path / "out"), *words])
    assert (status, message in capsys.readouterr().err) == (2, True)
    assert not (tmp_path / "out").exists()
