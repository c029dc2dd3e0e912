"""The engine under tables and studies, with jobs of its own: computed once, failed, retried, taken."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.support.studies import make_study
from transfer.experiments.child_run import RunFailed, Worker
from transfer.experiments.jobs import FAILED, TAKEN, Job, describe_progress, has_failed, pending_jobs
from transfer.experiments.launchers import Launch
from transfer.experiments.locks import JobIsTaken, locked
from transfer.experiments.processes import Children, import_path
from transfer.experiments.scaling.plan import TrialRun, read_study

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "transfer" / "experiments"


def make_job(folder: Path, name: str, compute: Callable[[Worker], dict[str, Any]]) -> Job:
    return Job(name, folder / f"{name}.json", folder / "locks" / name, compute, {"score": None}, dict)


def test_a_job_is_computed_once_and_a_failed_one_again_only_if_asked(tmp_path: Path) -> None:
    calls: list[str] = []

    def good(worker: Worker) -> dict[str, Any]:
        assert worker.folder == tmp_path and worker.go_on == "again"
        calls.append("good")
        return {"score": 1.0, "error": None}

    def bad(worker: Worker) -> dict[str, Any]:
        calls.append("bad")
        if len(calls) < 4:
            raise RunFailed("line 1\nthe last line")
        return {"score": 2.0, "error": None}

    jobs = [make_job(tmp_path, "good", good), make_job(tmp_path, "bad", bad), make_job(tmp_path, "later", good)]
    assert [job.id for job in pending_jobs(jobs)] == ["good", "bad", "later"]
    assert [job.exit_status(tmp_path, "again", False, fork=False) for job in jobs[:2]] == [0, FAILED]
    assert [job.exit_status(tmp_path, "again", False, fork=False) for job in jobs[:2]] == [0, FAILED]
    assert calls == ["good", "bad"]
    assert json.loads((tmp_path / "bad.json").read_text()) == {"score": None, "error": "line 1\nthe last line"}
    assert [job.id for job in pending_jobs(jobs)] == ["later"]
    assert [job.id for job in pending_jobs(jobs, retry_failed=True)] == ["bad", "later"]
    assert describe_progress(jobs, "jobs") == (1, 1, ["1 of 3 jobs are done, 1 failed", "  bad: the last line"])
    assert has_failed(jobs[1].complete(tmp_path, "again", retry_failed=True))
    assert jobs[1].complete(tmp_path, "again", retry_failed=True) == {"score": 2.0, "error": None}
    assert jobs[0].complete(tmp_path, "again", retry_failed=True)["score"] == 1.0 and calls.count("good") == 1


def test_a_job_that_another_process_computes_is_left_alone(tmp_path: Path) -> None:
    job = make_job(tmp_path, "x", lambda worker: pytest.fail("computed"))
    with locked(job.lock_file):
        assert job.exit_status(tmp_path, "again", False, fork=False) == TAKEN
        with pytest.raises(JobIsTaken):
            job.complete(tmp_path, "again")
    assert job.read() is None


def test_the_command_of_a_job_finds_the_package_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = Launch(tmp_path, ["table"], "cell", [], "", "").command("ID")
    assert command == ["-m", "transfer", "table", "--cell", "ID"]
    with Children(fork=False) as children:
        children.start([*command[:2], "--version"], environment, log=tmp_path / "log")
        assert children.wait_any()[1] == 0, (tmp_path / "log").read_text()
    own = import_path({"PYTHONPATH": os.pathsep.join(["/mine", str(ROOT)])})
    assert own.get("PYTHONPATH", f"{ROOT}{os.pathsep}/mine") == f"{ROOT}{os.pathsep}/mine"


def test_a_study_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    run = {"id": "rung1_a_s0", "trial": "a", "seed": 0, "steps": 5, "rung": 1}
    trial = {"name": "a", "backbone": "b0", "values": {}, "image_size": 32, "num_macs": 1, "num_parameters": 1}
    planned = asdict(make_study([[0.1]]))
    content = {**planned, "trials": [trial], "runs": [run]}
    (tmp_path / "study.json").write_text(json.dumps(content))
    assert read_study(tmp_path).runs == (TrialRun("rung1_a_s0", "a", 0, 5, round=1),)


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(prefix: str, folder: Path) -> set[str]:
    """Files below a folder that import a package."""
    paths = folder.rglob("*.py")
    return {str(path.relative_to(folder)) for path in paths if any(n.startswith(prefix) for n in imports_of(path))}


def test_arrows_of_the_experiments_point_one_way() -> None:
    names = {path.stem for path in EXPERIMENTS.glob("*.py")}
    assert {"jobs", "locks", "launchers", "processes", "child_run", "halving", "sweeps"} <= names
    for name in sorted(names):
        found = imports_of(EXPERIMENTS / f"{name}.py")
        assert not [n for n in found if n.startswith(("transfer.experiments.table", "transfer.experiments.scaling"))]
    assert importers("transfer.experiments.scaling", EXPERIMENTS / "table") == set()
    assert importers("transfer.experiments.table", EXPERIMENTS / "scaling") == set()
    for prefix in ("datamodules", "transfer.commands"):
        assert importers(prefix, EXPERIMENTS) == set()


def test_help_of_the_commands_needs_neither_torch_nor_the_parser_of_runs() -> None:
    code = """
import sys
from transfer.commands import table
from transfer.commands.scale import evolve, fit, report, run, search, sweep
for module in (table, evolve, fit, report, run, search, sweep):
    module.build_parser()
print(*sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pytorch_lightning", "datasets", "jsonargparse"} & set(ended.stdout.split())
