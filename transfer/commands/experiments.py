"""What the commands of tables and studies share: options of launchers, GPUs of their jobs, and the data."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transfer.commands.console import add_allow_user_code
from transfer.errors import check_count

if TYPE_CHECKING:
    from transfer.config.schema import FinetuneConfig


def add_launch_options(parser: argparse._ActionsContainer, units: str, timeout_min: int) -> None:
    """Add the options that say where and how jobs are computed.

    Args:
        parser: the parser, or a group of its options.
        units: what the jobs are called, in the plural.
        timeout_min: example of SLURM's time limit, in minutes.
    """
    parser.add_argument(
        "--workers", type=int, metavar="N", help=f"{units} at a time; default: as many as there are GPUs for, else one"
    )
    parser.add_argument("--launcher", choices=("local", "slurm", "wandb"), default="local")
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"submitit's parameters: partition=gpu, timeout_min={timeout_min}, cpus_per_task=8, ..., cluster=local for"
        " a trial",
    )
    parser.add_argument("--retry_failed", action="store_true", help=f"also compute the {units} that failed")
    add_allow_user_code(parser)


def check_counts(**counts: int | None) -> None:
    """Check that numbers of workers or devices are at least 1; None is not checked.

    Raises:
        UserError: one is smaller, or too large for 32 bits.
    """
    for name, value in counts.items():
        if value is not None:
            check_count(name, value)


def usable_gpus(on_cpu: bool = False, workers: int = 1) -> list[str]:
    """Return the GPUs for the runs of this process.

    Without any, runs are forked from this process, so what they import is imported here once.

    Args:
        on_cpu: whether the runs leave GPUs alone.
        workers: runs at a time, which share the CPU cores.
    """
    from transfer.experiments.devices import divide_cores, visible_gpus

    divide_cores(workers)
    gpus = [] if on_cpu else visible_gpus()
    if not gpus:
        import_what_runs_need()
    return gpus


def import_what_runs_need() -> None:
    """Import what finetune imports, on which a short run would spend most of its time."""
    import rich.table  # noqa: F401

    import datamodules.reading.folders  # noqa: F401
    import transfer.weights.build  # noqa: F401


@dataclass(frozen=True)
class DataFacts:
    """What plans have to know about a dataset that was read.

    Attributes:
        num_classes: number of classes.
        split_sizes: images of each split.
    """

    num_classes: int
    split_sizes: Mapping[str, int]


def read_data_facts(config: FinetuneConfig) -> DataFacts:
    """Read the data of a run and return what plans have to know about it.

    Raises:
        UserError: an unknown dataset, or data that cannot be had.
    """
    from datamodules import load_dataset

    data = load_dataset(config.dataset, **config.read_options())
    return DataFacts(data.num_classes, data.split_sizes)


def job_words(retry_failed: bool, allow_user_code: bool) -> Sequence[str]:
    """Return the words that the command of one job needs to compute it again if it failed, and to import its code."""
    return ["--retry_failed"] * retry_failed + ["--allow_user_code"] * allow_user_code


def fix_threads(threads: int) -> None:
    """Give every run this number of CPU threads: how a sum is split among threads changes its last digits."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
