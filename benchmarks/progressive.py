"""Accuracy of growing training images at equal processor time: python -m benchmarks progressive --data_root DIR

Each seed fine-tunes at full size, with images that grow over as many steps, and with images that grow over as many more
steps as take the first one's processor time. The accuracy is that of the end of the run, on val.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from transfer.errors import UserError
from transfer.files import expanded
from transfer.runs.results import read_results

FULL, GROWING, EQUAL_TIME = "full size", "growing, equal steps", "growing, equal time"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_progressive`."""
    parser.add_argument(
        "--data_root", type=expanded, metavar="DIR", required=True, help="images, as finetune takes them"
    )
    parser.add_argument("--backbone", default="lite0", help="default: lite0")
    parser.add_argument("--image_size", type=int, default=160, metavar="PX", help="default: 160")
    parser.add_argument("--first_size", type=int, default=96, metavar="PX", help="of the growing images; default: 96")
    parser.add_argument("--steps", type=int, default=60, metavar="N", help="steps of 32 images; default: 60")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="default: 2")


def benchmark_progressive(
    data_root: Path, backbone: str, image_size: int, first_size: int, steps: int, seeds: int
) -> dict[str, Any]:
    """Return each run's steps, top-1 on val, training and processor seconds, and the means over the seeds.

    Processor seconds are the whole command's. To find the steps of the third run, those of a run of one step are left
    out: what a command starts with, and the validation.

    Args:
        data_root: images with a val split, or from which one is held out.
        backbone: name of the backbone.
        image_size: side of the images in validation and at the end, in pixels.
        first_size: side of the growing images in the first quarter of a run.
        steps: steps of 32 images at full size.
        seeds: number of seeds.

    Raises:
        UserError: a number is out of range, or a run failed.
    """
    for name, value in (("steps", steps), ("seeds", seeds)):
        if value < 1:
            raise UserError(f"--{name} {value} (allowed: at least 1)")
    task = [
        "--dataset",
        "folder",
        "--data_root",
        str(data_root),
        "--backbone",
        backbone,
        "--image_size",
        str(image_size),
    ]
    growing = ["--progressive", str(first_size)]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (FULL, GROWING, EQUAL_TIME)}
    start = finetune(0, 1, task)["processor_seconds"]
    for seed in range(seeds):
        runs[FULL].append(finetune(seed, steps, task))
        runs[GROWING].append(finetune(seed, steps, [*task, *growing]))
        full, grown = (runs[name][-1]["processor_seconds"] - start for name in (FULL, GROWING))
        runs[EQUAL_TIME].append(finetune(seed, max(1, round(steps * full / grown)), [*task, *growing]))
    means = {name: round(statistics.mean(run["top1"] for run in found), 4) for name, found in runs.items()}
    sizes = {"image_size": image_size, "first_size": first_size}
    return {"backbone": backbone, **sizes, "start_seconds": start, "mean_top1": means, **runs}


def finetune(seed: int, steps: int, words: list[str]) -> dict[str, float]:
    """Return the figures of one run.

    Raises:
        UserError: it failed.
    """
    length = ["--trainer.max_steps", str(steps), "--trainer.max_epochs", "-1", "--seed", str(seed)]
    once = ["--trainer.check_val_every_n_epoch", "1000000", "--trainer.limit_test_batches", "0"]
    place = ["--data.batch_size", "32", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    before = processor_seconds()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        command = [*words, *length, *once, *place, "--out_dir", str(run_dir)]
        done = subprocess.run([sys.executable, "-m", "transfer", "finetune", *command], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"finetune {' '.join(command)} failed: {done.stderr.strip()[-300:]}")
        results = read_results(run_dir)
    return {
        "seed": seed,
        "steps": steps,
        "top1": results.val["top1"],
        "train_seconds": results.train_seconds or 0.0,
        "processor_seconds": round(processor_seconds() - before, 2),
    }


def processor_seconds() -> float:
    """Return the processor time of the processes that have ended, the kernel's part included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
