"""Studies: planned round by round, conducted, kept, and the proxy task of their runs."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.support.studies import make_study, outcomes_of
from transfer.config.command_line import parse_config
from transfer.config.parsing import flatten
from transfer.errors import UserError
from transfer.experiments.launchers import LAUNCHERS, Launch
from transfer.experiments.locks import locked
from transfer.experiments.scaling.defaults import PROXY
from transfer.experiments.scaling.loop import conduct
from transfer.experiments.scaling.outcomes import read_outcomes, run_job
from transfer.experiments.scaling.plan import Trial, TrialRun, read_study, write_study
from transfer.experiments.scaling.proxy import proxy_settings
from transfer.experiments.scaling.ranking import rank_rounds, ranked
from transfer.experiments.scaling.rounds import plan_next_round
from transfer.files import write_json


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


def test_a_run_that_another_process_computes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study([[0.1, 0.2]])
    write_study(tmp_path, study)
    taken, held = study.runs[1], threading.Event()
    place = {"hardware": {"gpus": [], "cores": 2, "cpu": "a CPU"}}

    def other() -> None:
        with locked(run_job(tmp_path, study, taken).lock_file):
            held.set()
            launched.wait(10)
            write_json(tmp_path / "runs" / f"{taken.id}.json", {"score": 0.2, **place})  # whole, as a run is

    launched, ids = threading.Event(), []

    def local(launch: Launch) -> None:
        ids.append(list(launch.ids))
        (tmp_path / "runs" / f"{launch.ids[0]}.json").write_text(json.dumps({"score": 0.1, **place}))
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


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    study = make_study([[0.1, 0.2], [0.3, 0.4]])
    write_study(tmp_path, study)
    assert read_study(tmp_path) == study
    more = study.extended([TrialRun("x", "y", 0, 1, 1)], [Trial("y", "b1", {"depth": 2.0}, 32, 1, 1)])
    assert more.trial("y").backbone == "b1" and more.run("x").trial == "y" and len(more.runs) == 5


def test_the_proxy_task_is_a_recipe_of_finetune() -> None:
    config = parse_config(["--config", str(PROXY), "--trainer.max_epochs", "-1"])[0]
    settings = proxy_settings(PROXY, ["optim.lr=0.1", "data.batch_size=8"])
    assert {**flatten(config.to_dict()), **settings}["optim.lr"] == 0.1
    assert settings["data.batch_size"] == 8 and settings["augment"] == "none"
    assert not settings.keys() & {"dataset", "backbone", "seed"}
