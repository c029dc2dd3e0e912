"""Damaged files of tables and studies: one line each, and one damaged outcome stops nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.results import Cells, done, save_table
from tests.support.studies import make_study, outcomes_of
from tests.support.tables import make_cell
from transfer.commands import table as script
from transfer.commands.scale import main as scale
from transfer.errors import DamagedFile, MissingData
from transfer.experiments import launchers
from transfer.experiments.jobs import has_failed, pending_jobs
from transfer.experiments.scaling.outcomes import read_outcomes, study_jobs
from transfer.experiments.scaling.plan import read_study, write_study
from transfer.experiments.table.cell_run import cell_job
from transfer.experiments.table.cells import Table, read_table, table_content
from transfer.experiments.table.entries import read_entries
from transfer.files import write_json

PLAN = table_content(Table(cells=(make_cell(0), make_cell(1))))


def cell(**changes: Any) -> dict[str, Any]:
    return {**PLAN, "cells": [{**PLAN["cells"][0], **changes}]}


BYTES = {
    "empty": b"",
    "cut": json.dumps(PLAN).encode()[:-30],
    "binary": bytes(range(256)),
    "utf-16": json.dumps(PLAN).encode("utf-16"),
    "a page": b"<html>404</html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "deep": b'{"cells": ' + b"[" * 100_000,
    "a long number": b'{"cells": ' + b"9" * 10_000 + b"}",
    "null": b"null",
    "a list": b"[]",
    "a number": b"3",
    "nothing in it": b"{}",
}
PLANS = {
    **BYTES,
    "cells of another type": {**PLAN, "cells": 3},
    "a cell of another type": {**PLAN, "cells": ["digits"]},
    "a cell without a seed": {**PLAN, "cells": [{k: v for k, v in PLAN["cells"][0].items() if k != "seed"}]},
    "a seed as text": cell(seed="0"),
    "a negative seed": cell(seed=-1),
    "no images": cell(num_images=0),
    "no pixels": cell(image_size=0),
    "a batch of nothing": cell(max_batch_per_device=0),
    "a fraction of an image": cell(num_images=10.5),
    "an id above the folder": cell(id="../../"),
    "an id that is the folder": cell(id="."),
    "an id with a slash": cell(id="a/b"),
    "an id with NUL": cell(id="a\0b"),
    "an empty id": cell(id=""),
    "a dataset that is null": cell(dataset=None),
    "a cell twice": {**PLAN, "cells": [PLAN["cells"][0], PLAN["cells"][0]]},
    "settings as a list": {**PLAN, "set": [1]},
    "a grid of numbers": {**PLAN, "grid": {"optim.lr": 3}},
    "a budget as text": {**PLAN, "budget_steps": "many"},
}


def damage(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.mark.parametrize("content", PLANS.values(), ids=PLANS)
def test_a_damaged_plan_of_a_table_is_one_line(content: Any, tmp_path: Path) -> None:
    damage(tmp_path / "table.json", content)
    with pytest.raises(DamagedFile) as caught:
        read_table(tmp_path)
    assert "table.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", ["run", "report", "cell"])
def test_the_commands_of_a_table_refuse_a_damaged_plan(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(tmp_path / "table.json", cell(id="../../"))
    words = ["--cell", "../../"] if verb == "cell" else []
    assert script.main([verb, str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_a_plan_that_is_no_regular_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "table.json")
    with pytest.raises((DamagedFile, MissingData)):
        read_table(tmp_path)


GOOD = done(98.0, 97.0)
RESULTS = {
    **BYTES,
    "another status": {**GOOD, "status": "maybe"},
    "metrics as a list": {**GOOD, "metrics": [1]},
    "an accuracy as text": {**GOOD, "metrics": {"test": {"top1": "98"}}},
    "an accuracy above 1": {**GOOD, "metrics": {"test": {"top1": 98.0}}},
    "an accuracy that is no number": {**GOOD, "metrics": {"test": {"top1": float("nan")}}},
    "reads as text": {**GOOD, "test_reads": "once"},
    "weights as text": {**GOOD, "weights": "w"},
    "weights trained on a list": {**GOOD, "weights": {"trained_on": ["ImageNet-1k"]}},
    "decay as a list": {**GOOD, "decay": ["x"]},
    "overrides as a list": {**GOOD, "overrides": [1]},
    "GPUs as a number": {**GOOD, "hardware": {"gpus": 3}},
    "hours as text": {**GOOD, "gpu_hours": "long"},
    "negative parameters": {**GOOD, "num_parameters_without_classifier": -1},
    "versions as text": {**GOOD, "versions": "2.13"},
    "an error as a number": {"status": "failed", "error": 3},
}


@pytest.mark.parametrize("content", RESULTS.values(), ids=RESULTS)
def test_a_damaged_result_is_a_failed_cell_and_the_others_stand(content: Any, tmp_path: Path) -> None:
    cells: Cells = [("digits", "lite0", "kornblith", GOOD)] * 2
    folder = save_table(tmp_path, cells)
    path = folder / "cells" / "cell-0" / "result.json"
    damage(path, content)
    entries = read_entries(folder)
    assert [entry.status for entry in entries] == ["failed", "done"]
    assert str(path) in entries[0].result["error"] and "\n" not in entries[0].result["error"]
    table = Table(cells=(replace(make_cell(0), id="cell-0"), replace(make_cell(0), id="cell-1")))
    jobs = [cell_job(folder, table, cell) for cell in table.cells]
    assert [has_failed(job.read() or {}) for job in jobs] == [True, False]
    assert pending_jobs(jobs) == [] and pending_jobs(jobs, retry_failed=True) == jobs[:1]


def test_a_table_with_a_damaged_result_has_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(cells=(make_cell(0), make_cell(1)))
    write_json(tmp_path / "table.json", table_content(table))
    for number, content in enumerate((b"[", GOOD)):
        damage(tmp_path / "cells" / table.cells[number].id / "result.json", content)
    assert script.main(["report", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "2 cells: 1 done, 1 failed" in text and "line 1: not JSON" in text
    assert script.main(["run", str(tmp_path)]) == 1
    assert "1 of 2 cells are done, 1 failed" in capsys.readouterr().out


def test_cells_without_a_result_are_a_status_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "table.json", PLAN)
    monkeypatch.setattr(launchers, "run_pool", lambda tasks, *_: ((task.name, 137) for task in tasks))
    assert script.main(["run", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "0 of 2 cells are done" in captured.out
    assert f"2 of 2 cells have no result; go on with: efficientnet-transfer table run {tmp_path}" in captured.out
    assert captured.err.count("ended with exit status 137, without a result") == 2


SCORES = [[0.1, 0.2], [0.3, 0.4]]


def change(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda plan: {**plan, **changes}


STUDIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda plan: [],
    "runs of another type": change(runs=3),
    "a run of another type": change(runs=["x"]),
    "a run of no trial": lambda plan: {**plan, "runs": [{**plan["runs"][0], "trial": "none"}]},
    "a run above the folder": lambda plan: {**plan, "runs": [{**plan["runs"][0], "id": "../../x"}]},
    "another kind": change(kind="../table"),
    "no options": change(options={}),
    "facts as text": change(facts="x"),
    "a trial without steps": lambda plan: {**plan, "runs": [{**plan["runs"][0], "steps": 0}]},
}


@pytest.mark.parametrize("spoil", STUDIES.values(), ids=STUDIES)
def test_a_damaged_study_is_one_line(
    spoil: Callable[[dict[str, Any]], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, make_study(SCORES))
    path = tmp_path / "study.json"
    damage(path, spoil(json.loads(path.read_text())))
    with pytest.raises(DamagedFile) as caught:
        read_study(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert scale(["report", str(tmp_path)]) == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}"),
        {"score": 1.5, "hardware": {"gpus": [], "cores": 2, "cpu": "a CPU"}},
        {"score": float("nan"), "hardware": {"gpus": [], "cores": 2, "cpu": "a CPU"}},
        {"score": "0.5"},
        {"score": 0.5, "hardware": {}},
        {"error": 3},
    ],
)
def test_a_damaged_outcome_is_a_failed_run(content: Any, tmp_path: Path) -> None:
    study = make_study(SCORES)
    write_study(tmp_path, study)
    jobs = study_jobs(tmp_path, study)
    for job, outcome in zip(jobs, outcomes_of(study, SCORES).values(), strict=True):
        damage(job.outcome_file, vars(outcome))
    damage(jobs[1].outcome_file, content)
    outcomes = read_outcomes(tmp_path, study)
    assert [outcome.failed for outcome in outcomes.values()] == [False, True, False, False]
    assert str(jobs[1].outcome_file) in str(outcomes[jobs[1].id].error)
    assert scale(["report", str(tmp_path)]) == 0
    assert "3 of 4 planned runs are done, 1 failed" in (tmp_path / "report.md").read_text()
