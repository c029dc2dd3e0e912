"""Locks, child processes and the GPUs that they are given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transfer.errors import Interrupted, UserError
from transfer.experiments.devices import device_slots, visible_gpus
from transfer.experiments.locks import JobIsTaken, locked
from transfer.experiments.processes import Children, Task, run_pool, single_process_environment, was_stopped

ROOT = Path(__file__).parents[2]


HOLD = """
import subprocess, sys, time
from pathlib import Path
from transfer.experiments.locks import locked
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
    with pytest.raises(JobIsTaken), locked(path):
        pass
    holder.kill()
    holder.wait()
    with pytest.raises(JobIsTaken), locked(path):
        pass  # a run whose parent was killed still writes there
    os.kill(orphan, signal.SIGKILL)
    for _ in range(100):
        try:
            with locked(path):
                return
        except JobIsTaken:
            time.sleep(0.02)
    pytest.fail("the lock was not freed")


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
    with pytest.raises(UserError, match=r"`workers`=3 with 2 GPUs each: 5 are visible \(allowed: at most 2\)"):
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


def test_a_hopeless_command_is_stopped_once_and_the_others_end(tmp_path: Path) -> None:
    asked: list[bool] = []

    def is_hopeless() -> bool:
        asked.append(len(asked) == 2)
        return asked[-1]

    log = tmp_path / "long.log"
    tasks = [
        Task("long", ["-c", "import time; print('began', flush=True); time.sleep(60)"], log, is_hopeless=is_hopeless),
        Task("short", ["-c", "raise SystemExit(5)"]),
    ]
    with Children(fork=False) as children:
        assert dict(run_pool(iter(tasks), [{}, {}], children)) == {"long": -signal.SIGTERM, "short": 5}
    assert asked == [False, False, True] and log.exists()


def test_a_pool_on_two_machines_starts_runs_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_JOB_ID": "9", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)  # as in the second task of `srun --nodes 2`
    log = tmp_path / "log"
    code = "import os; print(os.environ['SLOT'], *[name for name in os.environ if name.startswith('SLURM')])"
    with Children(fork=False) as children:
        assert dict(run_pool(iter([Task("run", ["-c", code], log)]), [{"SLOT": "0"}], children)) == {"run": 0}
    assert log.read_text() == "0\n"
