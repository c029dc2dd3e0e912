"""Who computes what was planned: processes of this machine, a SLURM job array, or the agents of a W&B sweep.

All of them start the same command for an id, such as `table cell OUT --cell ID`, which takes that cell's lock, goes
on from what is there and writes its result.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from transfer.errors import UserError

if TYPE_CHECKING:
    from transfer.experiments.table.cells import Table

import shlex
import signal
import subprocess
from collections.abc import Iterator

from transfer.config.command_line import split_pairs
from transfer.errors import Interrupted
from transfer.experiments.processes import Child, Children

# Exit statuses of such a command: its result says `failed`; another process is at it (EX_TEMPFAIL).
FAILED, TAKEN = 1, 75
# What submitit calls the same on every cluster; the other parameters are SLURM's own.
_SHARED = ("name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout")
_REQUEUES = 100


@dataclass(frozen=True)
class Launch:
    """What a launcher is told.

    Attributes:
        folder: of the table or study.
        words: what follows `python` to compute an id, on any machine that sees the folder, but for the id itself.
        option: that takes the id: `cell` or `run`.
        ids: to be computed.
        go_on: the user's command that takes the work up where it was stopped.
        report: the user's command that tells how far it is.
        workers: ids at a time; None: as many as there are GPUs for, else one.
        devices: GPUs of each, processes where there are none.
        slurm: submitit's parameters.
        gpus: of this machine, that may be used.
        on_cpu: whether no GPU is asked for.
    """

    folder: Path
    words: Sequence[str]
    option: str
    ids: Sequence[str]
    go_on: str
    report: str
    workers: int | None = None
    devices: int = 1
    slurm: Mapping[str, str] = field(default_factory=dict)
    gpus: Sequence[str] = ()
    on_cpu: bool = False

    def command(self, name: str) -> list[str]:
        """The script and its arguments for an id."""
        return [*self.words, f"--{self.option}", name]


def run_local(launch: Launch) -> None:
    """Computes the ids in processes of this machine, and waits for them.

    Raises:
        UserError: there are too few GPUs.
        Interrupted: Ctrl-C or SIGTERM, after what was running has saved what it had.
    """
    slots = device_slots(launch.workers, launch.devices, launch.gpus)
    tasks = iter([(name, launch.command(name)) for name in launch.ids])
    with Children(fork=not launch.gpus) as children:
        for name, status in run_pool(tasks, slots, children):
            if status == TAKEN:
                print(f"{name}: another process is at it")
            elif status not in (0, FAILED) and children.stopped is None:
                print(f"{name}: ended with exit status {status}, without a result", file=sys.stderr)
        if children.stopped is not None:
            raise Interrupted(children.stopped, launch.go_on)


def run_pool(
    tasks: Iterator[tuple[str, list[str]]],
    slots: Sequence[Mapping[str, str]],
    children: Children,
    logs: Path | None = None,
    keep_open: int | None = None,
) -> Iterator[tuple[str, int]]:
    """Runs commands, one in each slot at a time; gives each one's name and exit status as it ends.

    Args:
        slots: what a command finds in its environment.
        logs: folder for each one's output, NAME.log; None: this process's own output.
        keep_open: a descriptor that they inherit.
    """
    free = list(slots)
    running: dict[Child, tuple[str, Mapping[str, str]]] = {}
    while True:
        while free and children.stopped is None and (task := next(tasks, None)):
            name, command = task
            slot = free.pop(0)
            log = logs / f"{name}.log" if logs else None
            running[children.start(command, {**os.environ, **slot}, log, keep_open)] = name, slot
        if not running:
            return
        child, status = children.wait_any()
        name, slot = running.pop(child)
        free.append(slot)
        yield name, status


def device_slots(workers: int | None, devices: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """What each process that may run at a time finds in its environment: its own GPUs.

    Raises:
        UserError: there are too few GPUs.
    """
    if not gpus:
        return [{}] * (workers or 1)
    most = len(gpus) // devices
    if (workers or 1) > most:
        raise UserError(
            f"--workers {workers or 1} with {devices} GPUs each: {len(gpus)} are visible (allowed: at most {most})"
        )
    shares = [gpus[k * devices : (k + 1) * devices] for k in range(workers or most)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def slurm_parameters(words: Sequence[str], launcher: str) -> dict[str, str]:
    """What `--slurm KEY=VALUE`, given any number of times, says to submitit.

    Raises:
        UserError: not such words, or another launcher is used.
    """
    parameters = dict(split_pairs("--slurm", words, "partition=gpu"))
    if words and launcher != "slurm":
        raise UserError("--slurm needs --launcher slurm")
    return parameters


def visible_gpus() -> list[str]:
    """The GPUs that processes started here may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def submit_slurm(launch: Launch) -> None:
    """Submits the ids as a SLURM job array through submitit, and does not wait.

    Raises:
        UserError: submitit is missing, or refuses a parameter.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher slurm: package missing; run: pip install 'efficientnet-transfer[table]'") from None

    given = dict(launch.slurm)
    cluster = given.pop("cluster", "slurm")
    log = launch.folder.resolve() / "slurm"
    parameters: dict[str, Any] = {
        "name": f"{launch.words[2]}_{launch.folder.resolve().name}",
        "timeout_min": 24 * 60,
        "gpus_per_node": 0 if launch.on_cpu else launch.devices,
    }
    if launch.workers is not None:
        parameters["slurm_array_parallelism"] = launch.workers
    for name, value in given.items():
        parameters[name if name in _SHARED else f"slurm_{name}"] = int(value) if value.isdigit() else value
    try:
        executor = submitit.AutoExecutor(log, cluster=cluster, slurm_max_num_timeout=_REQUEUES)
        executor.update_parameters(**parameters)
        jobs = executor.map_array(Job(), [launch.command(name) for name in launch.ids])
    except (ValueError, NameError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"--launcher slurm: {error}") from None
    for job, name in zip(jobs, launch.ids, strict=True):
        print(f"{name}: job {job.job_id}")
    print(f"{len(jobs)} {launch.option}s submitted, logs in {log}; see how far they are: {launch.report}")


class Job:
    """A command as submitit's job: before a time limit or a preemption it saves itself, and is queued anew."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, command: list[str]) -> int:
        """Runs the command and gives its exit status."""
        self.process = subprocess.Popen([sys.executable, *command], preexec_fn=_ignore_warnings_of_the_scheduler)
        return self.process.wait()

    def checkpoint(self, command: list[str]) -> Any:
        """What submitit calls on its signal: stops the command, and gives the job that goes on with it."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            # Not wait(): this is a signal handler, which may have come in the midst of one.
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Job(), command)


def _ignore_warnings_of_the_scheduler() -> None:
    # SLURM sends them to every process of the job; only submitit knows what to do.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def write_wandb_sweep(launch: Launch) -> None:
    """Writes the ids as a W&B sweep, `sweep.yaml`, and says how to start it and its agents."""
    path = launch.folder / "sweep.yaml"
    sweep = Sweep(
        program=str(Path(sys.modules["transfer"].__file__ or "").with_name("__main__.py")),
        command=("${env}", sys.executable, *launch.words, "${args}"),
        method="grid",
        parameters={launch.option: {"values": list(launch.ids)}},
    )
    save_sweep(sweep, path)
    print(f"{len(launch.ids)} {launch.option}s written to {path}. Register it, then start agents, on any machine that")
    print(f"sees {launch.folder}; each takes one {launch.option} after the other:")
    print(f"  wandb sweep --project efficientnet-transfer {shlex.quote(str(path))}")
    print("  wandb agent <the id that it prints>")


LAUNCHERS: dict[str, Callable[[Launch], None]] = {
    "local": run_local,
    "slurm": submit_slurm,
    "wandb": write_wandb_sweep,
}


# What finetune spends most of a short run's time on importing.
_MODULES_OF_A_RUN = (
    *("pytorch_lightning", "rich.table", "datamodules.datamodule", "datamodules.reading.benchmarks"),
    *(
        "datamodules.reading.folders",
        "transfer.training.batch_norm",
        "transfer.training.callbacks",
        "transfer.networks.classifier",
        "transfer.training.module",
    ),
    *("transfer.runs.folder", "transfer.training.checkpointing"),
)


def computes_on_cpu(table: Table) -> bool:
    """Whether its cells leave GPUs alone."""
    return table.set.get("trainer.accelerator") == "cpu"


def usable_gpus(on_cpu: bool = False, workers: int = 1) -> list[str]:
    """The GPUs for the runs of this process. If there are none, it gets ready to be forked: what a run imports is
    imported, and each of several workers has its share of the cores.
    """
    from transfer.experiments.launchers import visible_gpus

    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    gpus = [] if on_cpu else visible_gpus()
    if not gpus:
        for module in _MODULES_OF_A_RUN:
            import_module(module)
    return gpus


@dataclass(frozen=True)
class Sweep:
    """What of a sweep file matters here.

    Attributes:
        program: that each run starts.
        command: W&B's template of the command line.
        parameters: name -> `value`, `values`, or a distribution with its range.
        metric: `name` and `goal` of what is optimized.
        run_cap: most runs.
    """

    program: str
    method: str
    parameters: Mapping[str, Mapping[str, Any]]
    command: tuple[str, ...] = ("${env}", "${interpreter}", "${program}", "${args}")
    metric: Mapping[str, str] = field(default_factory=dict)
    run_cap: int | None = None

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """The words after the program's name, as an agent makes them."""
        words = self.command[self.command.index("${program}") + 1 :]
        flags = [f"--{name}={value}" for name, value in values.items()]
        return [part for word in words for part in (flags if word == "${args}" else [word])]


def save_sweep(sweep: Sweep, path: Path) -> None:
    """Writes a sweep as W&B reads it."""
    content: dict[str, Any] = {
        "program": sweep.program,
        "method": sweep.method,
        "command": list(sweep.command),
        "parameters": dict(sweep.parameters),
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
