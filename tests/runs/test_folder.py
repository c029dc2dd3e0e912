"""A run's folder: its number, its agreement between processes, and that nobody else gets it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import ROOT, environment
from transfer.config.schema import FinetuneConfig
from transfer.errors import UserError
from transfer.runs.folder import RUN_DIR_VARIABLE, RunFolder, check_run_dir, is_main_process, open_run

FOREIGN = (RUN_DIR_VARIABLE, "SLURM_JOB_ID", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", "WORLD_SIZE", "RANK", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that nobody else started, in an empty folder."""
    for name in (*FOREIGN, "NODE_RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


CONFIG = FinetuneConfig(dataset="flowers", backbone="b7")


def test_the_first_run_is_number_one_and_its_folder_is_claimed(tmp_path: Path) -> None:
    assert open_run(CONFIG, None).path == Path("runs/flowers_b7/1")
    assert (tmp_path / "runs" / "flowers_b7" / "1").is_dir()
    assert os.environ[RUN_DIR_VARIABLE] == str(tmp_path / "runs" / "flowers_b7" / "1")


def test_the_next_number_is_above_the_highest_and_others_do_not_count(tmp_path: Path) -> None:
    for name in ("flowers_b7/2", "flowers_b7/10", "flowers_b7/11-old", "flowers_b7/best", "pets_b7/40"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert open_run(CONFIG, None).path == Path("runs/flowers_b7/11")
    assert open_run(FinetuneConfig(dataset="pets", backbone="b7"), None).path == Path("runs/pets_b7/41")


def test_the_runs_of_a_sweep_have_its_agents_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "83412")
    monkeypatch.setenv("WANDB_RUN_ID", "x1y2")
    assert open_run(CONFIG, None).path == Path("runs/flowers_b7/83412")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s3")
    assert open_run(CONFIG, None).path == Path("runs/flowers_b7/x1y2")


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"])
def test_processes_of_a_scheduler_agree_on_its_job_id(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "83412")
    for rank in ("0", "1"):
        monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert open_run(CONFIG, None).path == Path("runs/flowers_b7/83412")


def test_processes_that_cannot_agree_must_be_given_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # what torchrun says when it was given no --rdzv_id
    with pytest.raises(UserError, match="started manually cannot agree on a run's number: pass `out_dir`"):
        open_run(CONFIG, None)
    assert open_run(FinetuneConfig(out_dir="mine"), None).path == Path("mine")


def test_a_child_process_inherits_its_parents_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = open_run(CONFIG, None).path
    (chosen / "config.yaml").write_text("")
    (chosen / "metrics.csv").write_text("")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.chdir("/")  # a child may start elsewhere
    assert open_run(CONFIG, None).path == tmp_path / chosen
    assert open_run(FinetuneConfig(out_dir=str(tmp_path / "other")), None).path == tmp_path / chosen


def test_a_later_run_in_the_same_process_does_not_inherit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, "/somewhere/else")
    assert open_run(CONFIG, None).path == Path("runs/flowers_b7/1")


def test_a_folder_of_its_own_may_be_missing_empty_or_never_begun(tmp_path: Path) -> None:
    config = FinetuneConfig(out_dir=str(tmp_path / "own"))
    check_run_dir(config, None)
    (tmp_path / "own").mkdir()
    check_run_dir(config, None)
    assert open_run(config, None).path == tmp_path / "own"
    (tmp_path / "own" / "config.yaml").write_text("seed: 1\n")
    check_run_dir(config, None)
    assert open_run(config, None).path == tmp_path / "own"


@pytest.mark.parametrize("name", ["last.ckpt", "notes.txt", ".hidden"])
def test_a_folder_with_anything_else_in_it_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / name).write_text("mine")
    with pytest.raises(UserError, match=f"own is not empty; .* continue that run: `resume`={tmp_path}/own"):
        check_run_dir(FinetuneConfig(out_dir=str(tmp_path / "own")), None)
    assert (tmp_path / "own" / name).read_text() == "mine"
    assert RUN_DIR_VARIABLE not in os.environ


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("mine")
    with pytest.raises(UserError, match="own is not empty"):
        check_run_dir(FinetuneConfig(out_dir=str(tmp_path / "own")), None)


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"])
def test_the_main_process_has_rank_zero_everywhere(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_main_process()
    monkeypatch.setenv(variable, "0")
    assert is_main_process()
    monkeypatch.setenv(variable, "1")
    assert not is_main_process()


def test_disk_space_counts_48_bytes_a_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 48 * 10_000_000
    asked: list[Any] = []

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return shutil._ntuple_diskusage(2 * free, free, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    RunFolder(tmp_path).check_space(10_000_000)
    message = f"{tmp_path}: 458 MiB free, about 458 MiB are needed for checkpoints: free some space"
    with pytest.raises(UserError, match=message):
        RunFolder(tmp_path).check_space(10_000_001)
    assert asked == [tmp_path, tmp_path]


CLAIM = """
import sys
from transfer.config.schema import FinetuneConfig
from transfer.runs.folder import open_run
sys.stdin.readline()
print(*[open_run(FinetuneConfig(dataset="flowers", backbone="b7"), None).path.name for _ in range(20)])
"""


def test_runs_that_start_together_never_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIM]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), **pipes) for _ in "ab"]
    numbers = [number for process in processes for number in process.communicate("go\n")[0].split()]
    assert sorted(map(int, numbers)) == list(range(1, 41))


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a finished run \(it has results.json\)"):
        check_run_dir(CONFIG, tmp_path)
