"""What keeping freed memory gains and takes: python -m benchmarks allocator

Training steps and inference on one thread, each in a process of its own, with freed memory kept (see
transfer/commands/process.py) and with glibc's defaults. The two alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.ratios import ratio
from transfer.errors import UserError

# Warm-up steps: the first touches of memory are dearer than the later ones.
_WARM_UP = 4
_VARIABLES: dict[str, dict[str, str]] = {"kept": {}, "glibc's defaults": {"MALLOC_ARENA_MAX": "0"}}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_allocator`."""
    parser.add_argument("--backbones", nargs="+", default=("lite0", "b0"), metavar="NAME", help="default: lite0 b0")
    parser.add_argument("--image_size", type=int, default=224, metavar="PX", help="default: 224")
    parser.add_argument("--batch_size", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="measured steps per process; default: 5")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")


def benchmark_allocator(
    backbones: Sequence[str], image_size: int, batch_size: int, steps: int, rounds: int
) -> dict[str, Any]:
    """Return what training and inference take with freed memory kept and with glibc's defaults, as medians.

    `ratio` is of the images per processor second, which counts the kernel's, kept against default; `peak_ratio` of the
    largest resident set of the whole process.

    Args:
        backbones: names of the backbones.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        steps: measured steps per process, after the warm-up.
        rounds: number of alternating rounds.

    Raises:
        UserError: a number is out of range, a backbone is unknown, or a process failed.
    """
    from transfer.costs.peak_memory import PROCESS_STATUS
    from transfer.networks.registry import get_variant

    if platform.libc_ver()[0] != "glibc" or not PROCESS_STATUS.is_file():
        raise UserError("allocator: only glibc's malloc, on Linux, is measured")
    for name, value in (("image_size", image_size), ("batch_size", batch_size), ("steps", steps), ("rounds", rounds)):
        if value < 1:
            raise UserError(f"--{name} {value} (allowed: at least 1)")
    figures: dict[str, Any] = {"image_size": image_size, "batch_size": batch_size, "steps": steps, "rounds": rounds}
    for backbone in [get_variant(name).name for name in backbones]:
        for what in ("training", "inference"):
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in _VARIABLES}
            for _ in range(rounds):
                for name, variables in _VARIABLES.items():
                    runs[name].append(run_case(backbone, what, image_size, batch_size, steps, variables))
            figures[f"{backbone} {what}"] = compare(*runs.values())
    return figures


def compare(kept: list[dict[str, float]], default: list[dict[str, float]]) -> dict[str, Any]:
    """Return the medians of the rounds with freed memory kept and of those without, and their ratios."""
    figures: dict[str, Any] = {
        name: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
        for name, runs in zip(_VARIABLES, (kept, default), strict=True)
    }
    for name, figure in (("ratio", "images_per_processor_second"), ("peak_ratio", "peak_bytes")):
        figures |= ratio((run[figure] for run in kept), (run[figure] for run in default), name)
    return figures


def run_case(
    backbone: str, what: str, image_size: int, batch_size: int, steps: int, variables: dict[str, str]
) -> dict[str, float]:
    """Return the figures of `measure_case` from a process with these environment variables, and no other of malloc's.

    Raises:
        UserError: the process failed.
    """
    arguments = (backbone, what, image_size, batch_size, steps)
    code = f"from benchmarks.allocator import measure_case; measure_case(*{arguments})"
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, "-c", code], env={**own, **variables}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{backbone}, {what}: the process failed: {done.stderr.strip()[-300:]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure_case(backbone: str, what: str, image_size: int, batch_size: int, steps: int) -> None:
    """Print what the steps of one case take in this process, as JSON: processor time, page faults and peak memory."""
    from transfer.commands.process import keep_freed_memory

    keep_freed_memory()
    import torch

    from transfer.costs.bare_steps import forward_pass, random_batch, training_step
    from transfer.costs.peak_memory import resident_bytes
    from transfer.weights.build import build_classifier

    torch.set_num_threads(1)
    device = torch.device("cpu")
    network = build_classifier(backbone, 10)
    images, targets = random_batch(image_size, batch_size, device)
    step = training_step(network, device) if what == "training" else forward_pass(network, device)
    batch: Any = (images, targets) if what == "training" else images
    for _ in range(_WARM_UP):
        step(batch)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        step(batch)
    after = resource.getrusage(resource.RUSAGE_SELF)
    kernel = after.ru_stime - before.ru_stime
    taken = after.ru_utime - before.ru_utime + kernel
    figures = {
        "images_per_processor_second": round(steps * batch_size / taken, 2),
        "kernel_share": round(kernel / taken, 3),
        "page_faults_per_step": round((after.ru_minflt - before.ru_minflt) / steps),
        "peak_bytes": resident_bytes("VmHWM"),
    }
    print(json.dumps(figures))
