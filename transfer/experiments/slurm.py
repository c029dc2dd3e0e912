"""Commands as a SLURM job array, through submitit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.errors import BadValue, MissingData
from transfer.experiments.processes import import_path

# Parameters that submitit names alike on every cluster; all others are SLURM's own.
_SHARED = ("name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout")
_REQUEUES = 100


def submit_array(
    commands: Sequence[Sequence[str]],
    *,
    name: str,
    folder: Path,
    gpus: int,
    at_a_time: int | None,
    given: Mapping[str, str],
) -> tuple[Path, list[str]]:
    """Submit `python COMMAND` for each command and return the folder of the logs and the numbers of SLURM's jobs.

    Args:
        commands: words after `python` of each.
        name: name of the array.
        folder: folder of the experiment; logs go to its subfolder `slurm`.
        gpus: GPUs of each command.
        at_a_time: most commands at a time; None leaves that to SLURM.
        given: the user's parameters of submitit, which replace these. `cluster=local` runs without SLURM, for a trial.

    Raises:
        MissingData: submitit is missing.
        BadValue: it refuses a parameter.
    """
    try:
        import submitit
    except ImportError:
        install = "pip install 'efficientnet-transfer[table]'"
        raise MissingData(f"`launcher`=slurm: package missing; run: {install}") from None

    own = dict(given)
    cluster = own.pop("cluster", "slurm")
    log = folder.resolve() / "slurm"
    parameters: dict[str, Any] = {"name": name, "timeout_min": 24 * 60, "gpus_per_node": gpus}
    if at_a_time is not None:
        parameters["slurm_array_parallelism"] = at_a_time
    for key, value in own.items():
        parameters[key if key in _SHARED else f"slurm_{key}"] = int(value) if value.isdigit() else value
    try:
        executor = submitit.AutoExecutor(log, cluster=cluster, slurm_max_num_timeout=_REQUEUES)
        executor.update_parameters(**parameters)
        jobs = executor.map_array(Command(), commands)
    except (ValueError, NameError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise BadValue(f"`launcher`=slurm: {error}") from None
    return log, [job.job_id for job in jobs]


class Command:
    """A command for submitit that saves its state before a time limit or preemption, and is queued again."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, command: Sequence[str]) -> int:
        """Run `python COMMAND` and return its exit status."""
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **import_path(os.environ)},
            preexec_fn=_ignore_warnings_of_the_scheduler,
        )
        return self.process.wait()

    def checkpoint(self, command: Sequence[str]) -> Any:
        """Stop the command on submitit's signal and return the submission that goes on with it."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            # Not wait(): this is a signal handler, which may have interrupted one.
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Command(), command)


def _ignore_warnings_of_the_scheduler() -> None:
    # SLURM sends them to every process of the job; only submitit knows what to do.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
