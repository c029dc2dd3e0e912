"""One cell with a stand-in for finetune: searched, tested once, killed, resumed, left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules import get_sheet, list_datasets
from tests.support.tables import GRID, make_cell, run_cell
from transfer.experiments.locks import JobIsTaken, locked
from transfer.experiments.table.cell_run import run_configuration
from transfer.experiments.table.cells import Table
from transfer.experiments.table.probe_cells import probe_configuration

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("fork", [False, True])
def test_a_cell_chooses_on_val_at_the_end_and_tests_once(tmp_path: Path, table_stub: Any, fork: bool) -> None:
    cell, size = make_cell(), {"image_size": 32}
    table = Table(cells=(cell,), grid=GRID, set=size, not_comparable=size, data_note="small")
    assert run_cell(tmp_path, table, cell, devices=2, fork=fork) == "done"
    place = tmp_path / "cells" / cell.id
    result = json.loads((place / "result.json").read_text())
    assert result["status"] == "done" and result["error"] is None
    assert result["chosen"] == {"optim.lr": 0.01, "optim.weight_decay": 0.0} and result["num_trials"] == 3
    assert result["metrics"] == {"test": {"top1": 1.0}, "val": {"top1": 1.0}}
    assert result["search"] == "reduced grid: optim.lr 0.1, 0.01, 0.001; optim.weight_decay 0.0"
    assert result["overrides"] == {"image_size": 32} and result["test_reads"] == 1
    assert result["train_seconds"] == 6.0 and result["gpu_hours"] == round(4 * 1.5 * 2 / 3600, 4)
    assert result["num_parameters_without_classifier"] == 3_371_008
    assert result["final_run"] == f"cells/{cell.id}/final" and (result["data_note"], result["copy"]) == (
        "small",
        "a JPEG copy",
    )
    assert table_stub() == ["start trials/00", "start trials/01", "start trials/02", f"start {cell.id}/final"]
    assert sorted(p.name for p in (place / "trials" / "00").iterdir()) == ["config.yaml", "metrics.csv", "results.json"]
    assert (place / "final" / "best.ckpt").exists()
    final = yaml.safe_load((place / "final.yaml").read_text())
    assert final["data"]["train_on"] == "trainval" and "limit_test_batches" not in final["trainer"]
    trial = yaml.safe_load((place / "trials" / "02.yaml").read_text())
    assert trial["trainer"]["limit_test_batches"] == 0 and "train_on" not in trial["data"]
    assert trial["optim"]["lr"] == 0.001 and trial["trainer"]["devices"] == 2
    assert run_cell(tmp_path, table, cell) == "done" and len(table_stub()) == 4


def test_a_protocol_without_a_choice_is_one_fit(tmp_path: Path, table_stub: Any) -> None:
    cell = make_cell(protocol="sam-paper")
    assert run_cell(tmp_path, Table(cells=(cell,), grid=GRID), cell) == "done"
    result = json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())
    assert (result["search"], result["num_trials"], result["chosen"]) == ("none", 0, {})
    assert result["metrics"]["val"] is None and table_stub() == [f"start {cell.id}/final"]


def test_halving_gives_the_best_more_steps(tmp_path: Path, table_stub: Any) -> None:
    grid = {"optim.lr": [1.0, 0.5, 0.3, 0.1, 0.02, 0.01, 0.003, 0.001]}
    cell = make_cell()
    table = Table(cells=(cell,), grid=grid, budget_steps=800)
    assert run_cell(tmp_path, table, cell) == "done"
    result = json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())
    assert result["chosen"] == {"optim.lr": 0.01} and result["num_trials"] == 10
    assert result["search"].endswith("; successive halving, 800 steps")
    trials = tmp_path / "cells" / cell.id / "trials"
    steps = [yaml.safe_load(path.read_text())["trainer"]["max_steps"] for path in sorted(trials.glob("*.yaml"))]
    assert steps == [50] * 8 + [200] * 2
    assert [p.name for p in sorted(trials.glob("rung1*.yaml"))] == ["rung1_04.yaml", "rung1_05.yaml"]
    whole = yaml.safe_load((tmp_path / "cells" / cell.id / "final.yaml").read_text())["trainer"]["max_steps"]
    assert whole == run_configuration(cell, table, {}, 1, final=True)["trainer.max_steps"] > 200


def test_a_failed_cell_says_why_and_is_retried_with_what_it_had(
    tmp_path: Path, table_stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, table = make_cell(), Table(cells=(make_cell(),), grid=GRID)
    monkeypatch.setenv("STUB", "fail 0.01")
    assert run_cell(tmp_path, table, cell) == "failed"
    result = json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())
    assert result["status"] == "failed" and result["metrics"] is None
    assert result["error"] == f"cells/{cell.id}/trials/01: exit status 2\nerror: the learning rate is wrong"
    assert run_cell(tmp_path, table, cell) == "failed" and len(table_stub()) == 2
    monkeypatch.setenv("STUB", "")
    assert run_cell(tmp_path, table, cell, retry_failed=True) == "done"
    assert table_stub()[2:] == ["start trials/01", "start trials/02", f"start {cell.id}/final"]


def test_a_trial_that_diverges_is_the_worst_and_not_the_end(
    tmp_path: Path, table_stub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell, table = make_cell(), Table(cells=(make_cell(),), grid=GRID)
    monkeypatch.setenv("STUB", "diverge 0.01")  # the best rate, otherwise
    assert run_cell(tmp_path, table, cell) == "done"
    result = json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())
    assert result["chosen"]["optim.lr"] == 0.1 and result["num_trials"] == 2
    assert "trial 2 of 3, 14089 steps (optim.lr 0.01, optim.weight_decay 0): error: training loss is nan" in (
        capsys.readouterr().out
    )


def test_trials_that_all_diverge_are_a_failed_cell(
    tmp_path: Path, table_stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"optim.lr": [0.1], "optim.weight_decay": [0.0]}
    cell = make_cell()
    monkeypatch.setenv("STUB", "diverge 0.1")
    assert run_cell(tmp_path, Table(cells=(cell,), grid={**grid, "optim.momentum": [0.9, 0.8]}), cell) == "failed"
    result = json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())
    assert result["error"] == f"{cell.id}: every one of 2 trials diverged"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("results.json", "[", "results.json line 1: not JSON"),
        ("metrics.csv", "", "no top1 among its metrics"),
        ("metrics.csv", "step,val/top1\n1,high\n", "metrics.csv: damaged"),
    ],
)
def test_a_damaged_child_is_a_failed_cell_in_one_line(
    name: str, text: str, words: str, tmp_path: Path, table_stub: Any
) -> None:
    cell, table = make_cell(), Table(cells=(make_cell(),), grid=GRID)
    assert run_cell(tmp_path, table, cell) == "done"
    place = tmp_path / "cells" / cell.id
    (place / "result.json").unlink()
    (place / "trials" / "01" / name).write_text(text)
    assert run_cell(tmp_path, table, cell) == "failed"
    error = json.loads((place / "result.json").read_text())["error"]
    assert words in error and "\n" not in error


def test_a_run_that_was_killed_is_resumed(tmp_path: Path, table_stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, table = make_cell(), Table(cells=(make_cell(),), grid=GRID)
    monkeypatch.setenv("STUB", "die 0.01")
    assert run_cell(tmp_path, table, cell) == "failed"
    assert "killed by signal 9" in json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())["error"]
    leftover = tmp_path / "cells" / cell.id / "trials" / "02" / "config.yaml"
    leftover.parent.mkdir()
    leftover.touch()  # of a run that was killed before its first checkpoint
    monkeypatch.setenv("STUB", "")
    assert run_cell(tmp_path, table, cell, retry_failed=True) == "done"
    assert table_stub()[2:] == ["resume trials/01", "start trials/02", f"start {cell.id}/final"]


CELL = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.support.tables import GRID, STUB, make_cell, run_cell
from transfer.commands.console import exit_status
from transfer.experiments import child_run
from transfer.experiments.table.cells import Table
from transfer.experiments.table.probe_cells import probe_configuration
child_run.FINETUNE = (str(STUB),)
run = lambda: run_cell(Path(sys.argv[1]), Table(cells=(make_cell(),), grid=GRID), make_cell())
sys.exit(exit_status(run))
"""


@pytest.mark.parametrize(("number", "whole_group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_reaches_the_run_and_the_way_on_is_told(
    tmp_path: Path, table_stub: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, whole_group: bool
) -> None:
    monkeypatch.setenv("STUB", "wait 0.01")
    words = [sys.executable, "-c", CELL, str(tmp_path)]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    log = tmp_path / "cells" / make_cell().id / "trials" / "01.log"
    for _ in range(400):
        if log.exists() and "waiting" in log.read_text():
            break
        time.sleep(0.05)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    assert process.wait(20) == 128 + number
    assert process.stderr is not None
    assert f"stopped by {number.name}; go on with: efficientnet-transfer table run {tmp_path}" in process.stderr.read()
    assert not (tmp_path / "cells" / make_cell().id / "result.json").exists()
    monkeypatch.setenv("STUB", "")
    assert run_cell(tmp_path, Table(cells=(make_cell(),), grid=GRID), make_cell()) == "done"
    assert table_stub()[2:4] == ["resume trials/01", "start trials/02"]


def test_a_taken_cell_is_left_alone(tmp_path: Path, table_stub: Any) -> None:
    with locked(tmp_path / "cells" / make_cell().id / "lock"), pytest.raises(JobIsTaken):
        run_cell(tmp_path, Table(cells=(make_cell(),)), make_cell())
    assert table_stub() == []


def test_digits_leave_the_data_root_of_a_table_to_its_other_datasets() -> None:
    cells = make_cell(), replace(make_cell(), dataset="cars")
    table = Table(cells=cells, grid=GRID, data_root="/data")
    assert [run_configuration(cell, table, {}, 1, final=True)["data_root"] for cell in cells] == [None, "/data"]


def test_only_birdsnap_is_told_to_accept_what_is_left() -> None:
    sheets = {name: get_sheet(name) for name in list_datasets()}
    assert [name for name, sheet in sheets.items() if sheet.decays] == ["birdsnap"]
    table = Table(cells=(), set={"allow_decayed": True, "image_size": 64})
    for protocol, configuration in (
        ("kornblith", lambda cell: run_configuration(cell, table, {}, 1, final=True)),
        ("linear-probe", lambda cell: probe_configuration(cell, table, 1)),
    ):
        fields = {name: configuration(replace(make_cell(protocol=protocol), dataset=name)) for name in sheets}
        assert all(found["image_size"] == 64 for found in fields.values())
        assert [name for name, found in fields.items() if "allow_decayed" in found] == ["birdsnap"]
