"""Training speed on cores shared with other processes: python -m benchmarks cores

Images per second of fine-tuning on digits, alone and beside busy processes, with our settings and with GNU OpenMP's
default spinning (see transfer/commands/process.py). The two alternate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.ratios import ratio
from transfer.errors import UserError
from transfer.runs.results import read_results

# libgomp's default if there are no more threads than cores.
OPENMPS_OWN = "300000"
WORDS = (
    *("--dataset", "digits", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
    *("--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_cores`."""
    parser.add_argument("--backbone", default="lite0", help="default: lite0")
    parser.add_argument("--steps", type=int, default=19, metavar="N", help="steps of 64 images; default: 19")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--busy", type=int, metavar="N", help="busy processes; default: as many as usable cores")


def benchmark_cores(backbone: str, steps: int, rounds: int, busy: int | None) -> dict[str, Any]:
    """Return images per second of each case, as median and range of the rounds, and the ratios of ours to OpenMP's.

    Args:
        backbone: name of the backbone.
        steps: training steps of 64 images, at least 1.
        rounds: number of alternating rounds, at least 1.
        busy: number of busy processes, at least 0; None for the number of usable cores.

    Raises:
        UserError: a number is out of range, or a training run failed.
    """
    for name, value, least in (("steps", steps, 1), ("rounds", rounds, 1), ("busy", busy, 0)):
        if value is not None and value < least:
            raise UserError(f"--{name} {value} (allowed: at least {least})")
    from transfer.environment import environment

    count = environment()["hardware"]["cores"] if busy is None else busy
    figures: dict[str, Any] = {"backbone": backbone, "steps": steps, "rounds": rounds, "busy_processes": count}
    for place, others in (("alone", 0), ("beside busy processes", count)):
        speeds: dict[str, list[float]] = {"ours": [], "OpenMP's own": []}
        with busy_processes(others):
            for _ in range(rounds):
                speeds["ours"].append(train(backbone, steps))
                speeds["OpenMP's own"].append(train(backbone, steps, GOMP_SPINCOUNT=OPENMPS_OWN))
        figures[place] = {
            **{
                name: {"images_per_second": statistics.median(values), "range": [min(values), max(values)]}
                for name, values in speeds.items()
            },
            **ratio(speeds["ours"], speeds["OpenMP's own"]),
        }
    return figures


@contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep `count` processes busy while the context is active."""
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            processes.append(stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"])))
            stack.callback(processes[-1].kill)
        yield processes


def train(backbone: str, steps: int, **variables: str) -> float:
    """Return the images per second of a training run in a process of its own.

    Args:
        backbone: name of the backbone.
        steps: number of training steps.
        variables: environment variables of the process.

    Raises:
        UserError: the run failed.
    """
    own = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        words = [*WORDS, "--backbone", backbone, "--trainer.limit_train_batches", str(steps), "--out_dir", str(run_dir)]
        done = subprocess.run(
            [sys.executable, "-m", "transfer", "finetune", *words],
            env={**own, **variables},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"finetune {' '.join(words)} failed: {done.stderr.strip()[-300:]}")
        return read_results(run_dir).images_per_second or 0.0
