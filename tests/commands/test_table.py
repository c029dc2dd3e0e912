"""Tables without training: what is planned, searched, locked, started and reported, with a stand-in for finetune.py."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from transfer.commands import table as script
from transfer.config.command_line import flatten, unflatten
from transfer.config.protocols import get_protocol, protocol_settings
from transfer.costs.speed import SPEEDS, find_speed, read_benchmarks
from transfer.errors import Interrupted, UserError
from transfer.experiments import child_run, launchers
from transfer.experiments.halving import Rung, best, describe_search, plan_rungs, trials_of
from transfer.experiments.launchers import device_slots, visible_gpus
from transfer.experiments.locks import CellIsTaken, locked
from transfer.experiments.processes import Children, single_process_environment, was_stopped
from transfer.experiments.table.cell_run import run_cell, run_configuration
from transfer.experiments.table.cells import Cell, Table, extend, read_table, table_content
from transfer.experiments.table.config import TableConfig, parse_table

ROOT = Path(__file__).parents[2]
STUB = ROOT / "tests" / "support" / "stub_finetune.py"


def make_cell(seed: int = 0, protocol: str = "kornblith") -> Cell:
    return Cell(
        id=f"digits_lite0_{protocol}_{seed}", dataset="digits", backbone="lite0", protocol=protocol, seed=seed,
        image_size=64, num_images=1437, num_parameters=3_371_008, max_batch_per_device=64,
    )  # fmt: skip


GRID = {"optim.lr": [0.1, 0.01, 0.001]}


# The table's own configuration


def test_a_file_and_flags_make_a_table(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("datasets: [digits]\nbackbones: [b0]\nset: {optim.momentum: 0.8}\nseeds: [3]\n")
    flags = {"backbones": ["lite0", "b1"], "grid": ["optim.lr=1e-3,0.1", "bn=train"], "set": ["ema_half_life=0.1"]}
    config = parse_table(path, flags)
    assert [(pair.dataset, pair.backbone) for pair in config.pairs()] == [("digits", "lite0"), ("digits", "b1")]
    assert config.seeds == [3] and config.protocols == ["kornblith"]
    assert config.grid == {"optim.lr": [0.001, 0.1], "bn": ["train"]}
    assert config.set == {"ema_half_life": 0.1}


def test_names_choose_among_the_cells_of_a_file() -> None:
    paper = ROOT / "configs" / "tables" / "paper.yaml"
    assert len(parse_table(paper, {}).pairs()) == 16
    chosen = parse_table(paper, {"datasets": ["cifar10", "pets"], "backbones": ["b7", "b6"]}).pairs()
    assert [(pair.dataset, pair.backbone) for pair in chosen] == [("cifar10", "b7"), ("pets", "b6")]
    with pytest.raises(UserError, match="no cell of the file is of these datasets and backbones"):
        parse_table(paper, {"datasets": ["digits"]}).pairs()


def test_the_papers_table_is_table_5() -> None:
    from transfer.paper import TABLE5

    pairs = [(pair.dataset, pair.backbone) for pair in parse_table(ROOT / "configs/tables/paper.yaml", {}).pairs()]
    assert sorted(pairs) == sorted((row.dataset, row.backbone) for row in TABLE5)


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("protocol: [kornblith]", {}, r"unknown option 'protocol'; did you mean 'protocols'\?"),
        ("seeds: many", {}, "--seeds"),
        ("- a list", {}, "not a table"),
        ("cells: [{dataset: digits, backbon: b0}]", {}, "backbon"),
        ("", {"set": ["optim.lrr=1"]}, r"unknown option 'optim.lrr'; did you mean 'optim.lr'\?"),
        ("", {"set": ["optim.lr"]}, "--set optim.lr: give KEY=VALUE, for example --set optim.lr=0.1"),
        ("", {"set": ["optim.lr=-1"]}, r"--optim.lr -1.0 \(allowed: above 0\)"),
        ("", {"set": ["seed=1"]}, r"--set seed: the table decides it \(--seeds\)"),
        ("", {"set": ["protocol=paper"]}, r"--set protocol: the table decides it \(--protocols\)"),
        ("", {"grid": ["optim.lr=0.1,fast"]}, "--optim.lr"),
        ("", {"grid": ["data.train_on=train"]}, r"the table decides it \(the protocol\)"),
        ("", {"budget_steps": 0}, r"--budget_steps 0 \(allowed: at least 1\)"),
        ("", {"max_batch_per_device": 1}, r"--max_batch_per_device 1 \(allowed: at least 2\)"),
        ("seeds: []", {}, "--seeds: give at least one"),
    ],
)
def test_a_mistake_in_a_table_is_named(tmp_path: Path, content: str, flags: dict[str, Any], message: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        parse_table(path, flags)


def test_no_cells_at_all_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cells: give --config FILE"):
        TableConfig(datasets=["digits"]).pairs()
    with pytest.raises(UserError, match=r"nowhere.yaml: no such file"):
        parse_table(tmp_path / "nowhere.yaml", {})


def test_where_a_run_computes_does_not_make_it_incomparable() -> None:
    config = parse_table(
        None, {"set": ["data.num_workers=0", "trainer.accelerator=cpu", "image_size=32", "allow_decayed=true"]}
    )
    assert config.not_comparable() == {"image_size": 32}


def test_dotted_fields_and_nested_ones_are_inverse() -> None:
    dotted = {"a": 1, "b.c": 2, "b.d.e": None}
    assert unflatten(dotted) == {"a": 1, "b": {"c": 2, "d": {"e": None}}}
    assert flatten(unflatten(dotted)) == dotted


# The search


def test_halving_keeps_a_third_and_stays_within_the_budget() -> None:
    rungs = plan_rungs(56, 20_000, 100_000)
    assert [rung.size for rung in rungs] == [56, 18, 6, 2]
    assert [rung.steps for rung in rungs] == [446, 1388, 4166, 12_500]
    for trials in (2, 3, 7, 9, 56):
        for budget in (4 * trials, 333, 5_000, 40_000):
            rungs = plan_rungs(trials, 500, budget)
            assert sum(rung.size * rung.steps for rung in rungs) <= budget
            assert all(1 <= rung.steps <= 500 for rung in rungs) and rungs[-1].size <= max(trials, 5)
            assert all(later.steps >= earlier.steps for earlier, later in pairwise(rungs))


def test_a_budget_for_everything_is_the_full_grid() -> None:
    assert plan_rungs(4, 100, 400) == plan_rungs(4, 100, None) == (Rung(4, 100),)
    assert plan_rungs(1, 100, None) == plan_rungs(1, 100, 3) == ()


def test_too_small_a_budget_says_what_is_enough() -> None:
    with pytest.raises(UserError, match=r"allowed: at least 224; 1120000 is the full grid"):
        plan_rungs(56, 20_000, 223)
    assert plan_rungs(56, 20_000, 224)[0] == Rung(56, 1)


def test_the_best_are_chosen_without_those_that_diverged() -> None:
    assert best([0.1, math.nan, 0.3, 0.3, 0.2], 5) == [2, 3, 4, 0, 1]
    assert best([math.nan, math.nan], 1) == [0]


def test_a_reduced_grid_replaces_a_grid_but_makes_none() -> None:
    own = get_protocol("kornblith").grid
    assert len(own) == 56 and trials_of(own, {}) == own
    assert trials_of(own, {"a": [1, 2], "b": [3]}) == ({"a": 1, "b": 3}, {"a": 2, "b": 3})
    assert trials_of(({},), {"a": [1, 2]}) == ({},)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, 100, {}, None), "none"),
        ((56, 100, {}, None), "full grid"),
        ((56, 100, {}, 5600), "full grid"),
        ((2, 100, {"optim.lr": [0.1, 0.01]}, None), "reduced grid: optim.lr 0.1, 0.01"),
        ((56, 100, {}, 700), "successive halving, 700 steps"),
        ((2, 100, {"optim.lr": [0.1, 0.01]}, 50), "reduced grid: optim.lr 0.1, 0.01; successive halving, 50 steps"),
        ((1, 100, {"optim.lr": [0.1]}, 50), "reduced grid: optim.lr 0.1"),
    ],
)
def test_a_result_says_how_its_values_were_found(arguments: Any, text: str) -> None:
    assert describe_search(*arguments) == text


# Cells


def test_a_table_may_grow_but_not_change() -> None:
    old = Table(cells=(make_cell(0),), set={"image_size": 32})
    larger = Table(cells=(make_cell(0), make_cell(1)), set={"image_size": 32}, data_root="/elsewhere")
    assert [cell.seed for cell in extend(old, larger, Path("t")).cells] == [0, 1]
    assert [cell.seed for cell in extend(larger, old, Path("t")).cells] == [0, 1]
    with pytest.raises(UserError, match=r"t was planned otherwise.*\n  set: {'image_size': 32} -> {}"):
        extend(old, Table(cells=(make_cell(1),)), Path("t"))


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = Table(cells=(make_cell(0), make_cell(1)), grid=GRID, budget_steps=30)
    (tmp_path / "table.json").write_text(json.dumps(table_content(table)))
    assert read_table(tmp_path) == table
    with pytest.raises(UserError, match=r"unknown cell 'digits_lite0_kornblith_2'; did you mean"):
        table.cell("digits_lite0_kornblith_2")
    with pytest.raises(UserError, match=r"is no table \(it has no table.json\): efficientnet-transfer table plan"):
        read_table(tmp_path / "nowhere")


HOLD = """
import subprocess, sys, time
from pathlib import Path
from transfer.experiments.table.cells import locked
with locked(Path(sys.argv[1])) as lock:
    child = subprocess.Popen(["sleep", "30"], pass_fds=(lock,))
    print(child.pid, flush=True)
    time.sleep(30)
"""


def test_a_lock_is_free_when_its_last_process_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    orphan = int(holder.stdout.readline())
    with pytest.raises(CellIsTaken), locked(path):
        pass
    holder.kill()
    holder.wait()
    with pytest.raises(CellIsTaken), locked(path):
        pass  # a run whose parent was killed still writes there
    os.kill(orphan, signal.SIGKILL)
    for _ in range(100):
        try:
            with locked(path):
                return
        except CellIsTaken:
            time.sleep(0.02)
    pytest.fail("the lock was not freed")


# One cell, with the stand-in for finetune.py


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Puts the stand-in in place; gives the runs that were started so far."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setattr(child_run, "FINETUNE", (str(STUB),))
    monkeypatch.setenv("STUB_CALLS", str(calls))
    return lambda: calls.read_text().splitlines()


@pytest.mark.parametrize("fork", [False, True])
def test_a_cell_chooses_on_val_at_the_end_and_tests_once(tmp_path: Path, stub: Any, fork: bool) -> None:
    cell, size = make_cell(), {"image_size": 32}
    table = Table(cells=(cell,), grid=GRID, set=size, not_comparable=size, data_note="small")
    assert run_cell(tmp_path, table, cell, devices=2, fork=fork) == "done"
    place = tmp_path / "cells" / cell.id
    result = json.loads((place / "result.json").read_text())
    assert result["status"] == "done" and result["error"] is None
    assert result["chosen"] == {"optim.lr": 0.01} and result["num_trials"] == 3
    assert result["metrics"] == {"test": {"top1": 1.0}, "val": {"top1": 1.0}}
    assert result["search"] == "reduced grid: optim.lr 0.1, 0.01, 0.001"
    assert result["overrides"] == {"image_size": 32} and result["test_reads"] == 1
    assert result["train_seconds"] == 6.0 and result["gpu_hours"] == round(4 * 1.5 * 2 / 3600, 4)
    assert result["num_parameters_without_classifier"] == 3_371_008
    assert result["final_run"] == f"cells/{cell.id}/final" and result["data_note"] == "small; a JPEG copy"
    assert stub() == ["start trials/00", "start trials/01", "start trials/02", f"start {cell.id}/final"]
    assert sorted(p.name for p in (place / "trials" / "00").iterdir()) == ["config.yaml", "metrics.csv", "results.json"]
    assert (place / "final" / "best.ckpt").exists()
    final = yaml.safe_load((place / "final.yaml").read_text())
    assert final["data"]["train_on"] == "trainval" and "limit_test_batches" not in final["trainer"]
    trial = yaml.safe_load((place / "trials" / "02.yaml").read_text())
    assert trial["trainer"]["limit_test_batches"] == 0 and "train_on" not in trial["data"]
    assert trial["optim"]["lr"] == 0.001 and trial["trainer"]["devices"] == 2
    assert run_cell(tmp_path, table, cell) == "done" and len(stub()) == 4


def test_a_protocol_without_a_choice_is_one_fit(tmp_path: Path, stub: Any) -> None:
    cell = make_cell(protocol="sam-paper")
    assert run_cell(tmp_path, Table(cells=(cell,), grid=GRID), cell) == "done"
    result = json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())
    assert (result["search"], result["num_trials"], result["chosen"]) == ("none", 0, {})
    assert result["metrics"]["val"] is None and stub() == [f"start {cell.id}/final"]


def test_halving_gives_the_best_more_steps(tmp_path: Path, stub: Any) -> None:
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
    tmp_path: Path, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, table = make_cell(), Table(cells=(make_cell(),), grid=GRID)
    monkeypatch.setenv("STUB", "fail 0.01")
    assert run_cell(tmp_path, table, cell) == "failed"
    result = json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())
    assert result["status"] == "failed" and result["metrics"] is None
    assert result["error"] == f"cells/{cell.id}/trials/01: exit status 2\nerror: the learning rate is wrong"
    assert run_cell(tmp_path, table, cell) == "failed" and len(stub()) == 2
    monkeypatch.setenv("STUB", "")
    assert run_cell(tmp_path, table, cell, retry_failed=True) == "done"
    assert stub()[2:] == ["start trials/01", "start trials/02", f"start {cell.id}/final"]


def test_a_run_that_was_killed_is_resumed(tmp_path: Path, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, table = make_cell(), Table(cells=(make_cell(),), grid=GRID)
    monkeypatch.setenv("STUB", "die 0.01")
    assert run_cell(tmp_path, table, cell) == "failed"
    assert "killed by signal 9" in json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())["error"]
    leftover = tmp_path / "cells" / cell.id / "trials" / "02" / "config.yaml"
    leftover.parent.mkdir()
    leftover.touch()  # of a run that was killed before its first checkpoint
    monkeypatch.setenv("STUB", "")
    assert run_cell(tmp_path, table, cell, retry_failed=True) == "done"
    assert stub()[2:] == ["resume trials/01", "start trials/02", f"start {cell.id}/final"]


CELL = """
import sys
from pathlib import Path
from tests.commands.test_table import GRID, STUB, make_cell
from transfer.commands.console import exit_status
from transfer.experiments import child_run
from transfer.experiments.table.cells import Table
child_run.FINETUNE = (str(STUB),)
from transfer.experiments.table.cell_run import run_cell
run = lambda: run_cell(Path(sys.argv[1]), Table(cells=(make_cell(),), grid=GRID), make_cell())
sys.exit(exit_status(run))
"""


@pytest.mark.parametrize(("number", "whole_group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_reaches_the_run_and_the_way_on_is_told(
    tmp_path: Path, stub: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, whole_group: bool
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
    assert stub()[2:4] == ["resume trials/01", "start trials/02"]


def test_a_taken_cell_is_left_alone(tmp_path: Path, stub: Any) -> None:
    with locked(tmp_path / "cells" / make_cell().id / "lock"), pytest.raises(CellIsTaken):
        run_cell(tmp_path, Table(cells=(make_cell(),)), make_cell())
    assert stub() == []


# Processes and devices


def test_statuses_of_stopped_processes() -> None:
    assert all(was_stopped(status) for status in (-2, -15, 130, 143))
    assert not any(was_stopped(status) for status in (0, 1, 2, -9, 137))


def test_a_run_does_not_take_its_scheduler_for_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "RANK", "TRANSFER_RUN_DIR", "WANDB_RUN_ID", "SUBMITIT_LOCAL_NTASKS"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("WANDB_MODE", "offline")
    environment = single_process_environment()
    assert not {name for name in environment if name.startswith(("SLURM", "RANK", "SUBMITIT", "WANDB_RUN", "TRANSFER"))}
    assert environment["WANDB_MODE"] == "offline" and environment["PATH"] == os.environ["PATH"]


def test_gpus_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3,5,7")
    gpus = visible_gpus()
    assert gpus == ["0", "2", "3", "5", "7"]
    named = [slot["CUDA_VISIBLE_DEVICES"] for slot in device_slots(None, 2, gpus)]
    assert named == ["0,2", "3,5"]
    assert device_slots(1, 4, gpus) == [{"CUDA_VISIBLE_DEVICES": "0,2,3,5"}]
    with pytest.raises(UserError, match=r"--workers 3 with 2 GPUs each: 5 are visible \(allowed: at most 2\)"):
        device_slots(3, 2, gpus)
    with pytest.raises(UserError, match=r"allowed: at most 0"):
        device_slots(None, 8, gpus)
    assert device_slots(3, 2, []) == [{}, {}, {}]


def test_children_that_are_left_are_stopped(tmp_path: Path) -> None:
    sleeper = tmp_path / "sleep.py"
    sleeper.write_text("import time\ntime.sleep(60)\n")
    started = time.perf_counter()
    with pytest.raises(Interrupted), Children(fork=False) as children:
        children.start([str(sleeper)], os.environ)
        raise Interrupted(signal.SIGTERM, "again")
    assert time.perf_counter() - started < 50  # it would sleep for 60 s


# The command line


@pytest.fixture
def speeds(tmp_path: Path) -> Path:
    """A file of benchmark.py train for lite0 at 64 px on a CPU."""
    figures = {
        **{"backbone": "lite0", "image_size": 64, "hardware": {"cpu": "a CPU", "cores": 2, "gpus": []}},
        **{case: {"images_per_second": 100.0} for case in ("bf16 channels_last", "float32 channels_last")},
    }
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(figures))
    return path


def plan(out: Path, *words: str | Path) -> int:
    return script.main(["plan", str(out), "--datasets", "digits", "--backbones", "lite0", *map(str, words)])


def test_plan_writes_cells_and_says_what_they_cost(
    tmp_path: Path, speeds: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "out"
    options = ("--benchmarks", speeds, "--grid", "optim.lr=0.1,0.01", "--max_batch_per_device", "32")
    assert plan(out, *options, "--seeds", "0", "1") == 0
    table = read_table(out)
    assert [cell.id for cell in table.cells] == ["digits_lite0_kornblith_0", "digits_lite0_kornblith_1"]
    cell = table.cells[0]
    assert (cell.image_size, cell.num_images, cell.num_parameters) == (64, 1437, 3_371_008)
    steps = 3 * math.ceil(20_000 * 1437 / 2040)
    text = capsys.readouterr().out
    assert f"{steps:,}" in text and "reduced grid: optim.lr 0.1, 0.01" in text
    assert f"{2 * steps * 256 / 100 / 3600:,.2f} device-hours" in text
    assert "on 2 cores of a CPU" in text
    assert plan(out, *options, "--seeds", "2") == 0
    assert [cell.seed for cell in read_table(out).cells] == [0, 1, 2]
    assert plan(out, "--benchmarks", speeds) == 2
    assert "was planned otherwise; give a new folder, or the same options:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--protocols", "kornblit"), "unknown protocol 'kornblit'; did you mean 'kornblith'?"),
        (("--pretrained", "nowhere"), "nowhere"),
        (("--budget_steps", "10"), "--budget_steps 10: too few for 56 trials"),
        (("--benchmarks", "nowhere.json"), "--benchmarks nowhere.json: no such file"),
        (("--set", "optim.lr=0.1"), "--set optim.lr: the trials of kornblith choose it; give --grid optim.lr=..."),
        (("--set", "early_stopping=3"), "there is no validation to wait for"),
    ],
)
def test_plan_refuses_what_cannot_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert plan(tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("backbone", "count"), [("b0", 4_007_548), ("b7", 63_786_960), ("b0@phi=0", 4_007_548)])
def test_parameters_are_counted_without_the_classifier(backbone: str, count: int) -> None:
    assert script.count_parameters(backbone) == count


def test_run_needs_a_plan_and_sensible_numbers(
    tmp_path: Path, speeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["run", str(tmp_path / "out")]) == 2
    assert "is no table" in capsys.readouterr().err
    for words, message in (
        (["--workers", "0"], "--workers 0 (allowed: at least 1)"),
        (["--slurm", "partition"], "--slurm partition: give KEY=VALUE"),
        (["--slurm", "partition=gpu"], "--slurm needs --launcher slurm"),
    ):
        assert script.main(["run", str(tmp_path / "out"), *words]) == 2
        assert message in capsys.readouterr().err


def test_run_goes_on_after_a_failed_cell_and_says_how_to_retry(
    tmp_path: Path, speeds: Path, stub: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    cpu = ("--set", "trainer.accelerator=cpu", "--grid", "optim.lr=0.1,0.01", "--benchmarks", speeds)
    assert plan(out, "--seeds", "0", "1", "--protocols", "kornblith", "sam-paper", *cpu) == 0
    monkeypatch.setenv("STUB", "fail 0.1")
    monkeypatch.setattr(launchers, "run_pool", run_here)
    assert script.main(["run", str(out), "--workers", "2"]) == 1
    text = capfd.readouterr().out
    assert "2 of 4 cells are done, 2 failed" in text
    assert "digits_lite0_kornblith_1: error: the learning rate is wrong" in text
    assert "--retry_failed" in text
    monkeypatch.setenv("STUB", "")
    assert script.main(["run", str(out)]) == 1 and len(stub()) == 4
    assert script.main(["run", str(out), "--retry_failed"]) == 0
    assert "4 of 4 cells are done" in capfd.readouterr().out
    assert script.main(["report", str(out)]) == 0
    assert "kornblith" in capfd.readouterr().out and (out / "report.csv").exists()


def run_here(tasks: Any, slots: Any, children: Any, logs: Any = None, keep_open: Any = None) -> Any:
    """`run_pool` in this process, where the stand-in is known."""
    for name, command in tasks:
        assert Path(command[0]) == Path(script.__file__)
        yield name, script.main(command[1:])


def test_a_measured_speed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = find_speed(tmp_path, [], "lite0", 32, 4, on_cpu=True)
    assert speed is not None and speed.images_per_second > 0 and "cores of" in speed.measured_on
    monkeypatch.setattr("transfer.costs.speed.measure", lambda *_: pytest.fail("measured again"))
    assert find_speed(tmp_path, [], "lite0", 32, 4, on_cpu=True) == speed
    assert len(json.loads((tmp_path / SPEEDS).read_text())["speeds"]) == 1
    assert find_speed(tmp_path, [], "lite0", 64, 1, on_cpu=True) is None


def test_another_file_is_no_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=r"other.json: not a file of benchmark.py train --json"):
        read_benchmarks([path])


def test_a_protocols_settings_are_those_of_its_runs() -> None:
    protocol = get_protocol("kornblith")
    cell, trial = make_cell(), protocol.grid[9]
    settings = protocol_settings(
        protocol, trial, dataset="digits", backbone="lite0", num_images=1437, devices=1, max_batch_per_device=64
    )
    ours = run_configuration(cell, Table(cells=(cell,), pretrained="paper"), trial, 1, final=False)
    assert settings.items() <= ours.items()
    assert ours.keys() - settings.keys() == {
        *("pretrained", "dataset", "backbone", "seed", "data_root", "trainer.devices", "trainer.limit_test_batches")
    }
    random = run_configuration(make_cell(protocol="scratch"), Table(cells=(cell,), pretrained="paper"), trial, 1, True)
    assert random["pretrained"] is False
