"""Who computes planned jobs: processes of this machine, a SLURM job array, or the agents of a W&B sweep.

All of them start the same command with a job's id, such as `table cell OUT --cell ID`. It takes the job's lock, goes on
from what is there and writes the outcome.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transfer.config.command_line import split_pairs
from transfer.errors import BadValue, Interrupted
from transfer.experiments.devices import device_slots
from transfer.experiments.jobs import FAILED, TAKEN
from transfer.experiments.processes import Children, Task, import_path, run_pool
from transfer.experiments.sweeps import Sweep, save_sweep


@dataclass(frozen=True)
class Launch:
    """What a launcher has to know.

    Attributes:
        folder: folder of the experiment.
        words: words after `python -m transfer` of the command that computes a job, on any machine that sees the folder,
            without the job's id.
        option: option that takes the id: `cell` or `run`.
        ids: jobs to compute.
        go_on: command that the user types after an interruption.
        report: command that tells the user how far the experiment is.
        workers: jobs at a time; None takes as many as there are GPUs for, or one without GPUs.
        devices: GPUs of each job, or processes where there are none.
        slurm: submitit's parameters.
        gpus: GPUs of this machine that may be used.
        on_cpu: whether the jobs leave GPUs alone.
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
        """Return the words after `python` that compute a job."""
        return ["-m", "transfer", *self.words, f"--{self.option}", name]


def run_local(launch: Launch) -> None:
    """Compute the jobs in processes of this machine and wait for them.

    Raises:
        UserError: there are too few GPUs.
        Interrupted: Ctrl-C or SIGTERM, after the running jobs have saved their state.
    """
    slots = device_slots(launch.workers, launch.devices, launch.gpus)
    tasks = (Task(name, launch.command(name)) for name in launch.ids)
    with Children(fork=not launch.gpus) as children:
        for name, status in run_pool(tasks, slots, children):
            if status == TAKEN:
                print(f"{name}: another process computes it")
            elif status not in (0, FAILED) and children.stopped is None:
                print(f"{name}: ended with exit status {status}, without a result", file=sys.stderr)
        if children.stopped is not None:
            raise Interrupted(children.stopped, launch.go_on)


def submit_slurm(launch: Launch) -> None:
    """Submit the jobs as a SLURM job array through submitit, without waiting for them.

    Raises:
        UserError: submitit is missing, or refuses a parameter.
    """
    from transfer.experiments.slurm import submit_array

    kind = launch.words[0]
    log, submitted = submit_array(
        [launch.command(name) for name in launch.ids],
        name=f"{kind}_{launch.folder.resolve().name}",
        folder=launch.folder,
        gpus=0 if launch.on_cpu else launch.devices,
        at_a_time=launch.workers,
        given=launch.slurm,
    )
    for number, name in zip(submitted, launch.ids, strict=True):
        print(f"{name}: job {number}")
    print(f"{len(submitted)} {launch.option}s submitted, logs in {log}; see how far they are: {launch.report}")


def write_wandb_sweep(launch: Launch) -> None:
    """Write the jobs as a W&B sweep, `sweep.yaml`, and print how to start it and its agents."""
    path = launch.folder / "sweep.yaml"
    variables = [f"{name}={value}" for name, value in import_path({}).items()]
    sweep = Sweep(
        program="transfer",
        command=("${env}", *variables, sys.executable, "-m", "${program}", *launch.words, "${args}"),
        method="grid",
        parameters={launch.option: {"values": list(launch.ids)}},
    )
    save_sweep(sweep, path)
    print(f"{len(launch.ids)} {launch.option}s written to {path}. Register it, then start agents, on any machine that")
    print(f"sees {launch.folder}; each computes one {launch.option} after the other:")
    print(f"  wandb sweep --project efficientnet-transfer {shlex.quote(str(path))}")
    print("  wandb agent <the id that it prints>")


LAUNCHERS: dict[str, Callable[[Launch], None]] = {
    "local": run_local,
    "slurm": submit_slurm,
    "wandb": write_wandb_sweep,
}


def slurm_parameters(words: Sequence[str], launcher: str) -> dict[str, str]:
    """Return submitit's parameters by name.

    Args:
        words: KEY=VALUE, as given to `--slurm` any number of times.
        launcher: name of the launcher that is used.

    Raises:
        UserError: not such words, or another launcher is used.
    """
    parameters = dict(split_pairs("`slurm`", words, "partition=gpu"))
    if words and launcher != "slurm":
        raise BadValue("`slurm` needs `launcher`=slurm")
    return parameters
