"""Accuracy, size and latency of a student without and with a teacher: python -m benchmarks distillation --data_root DIR

Some photos of each class train, some choose the best epoch, and the others test. The teacher is fine-tuned on the
photos that the student trains on. Each seed trains the student from the labels alone and from the teacher, too: as many
steps, on the same crops in the same order.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from transfer.errors import UserError, check_count
from transfer.files import expanded
from transfer.images.decode import PICTURE_SUFFIXES
from transfer.runs.results import Results, read_results

ALONE, TAUGHT = "student alone", "student with teacher"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_distillation`."""
    parser.add_argument(
        "--data_root", type=expanded, required=True, metavar="DIR", help="class folders, or splits of class folders"
    )
    parser.add_argument("--per_class", type=int, default=60, metavar="N", help="training photos; default: 60")
    parser.add_argument("--teacher", default="lite2", help="its backbone; default: lite2")
    parser.add_argument("--teacher_size", type=int, default=96, metavar="PX", help="default: 96")
    parser.add_argument("--student", default="lite0", help="its backbone; default: lite0")
    parser.add_argument("--student_size", type=int, default=64, metavar="PX", help="default: 64")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="default: 3")


def benchmark_distillation(
    data_root: Path,
    per_class: int = 60,
    teacher: str = "lite2",
    teacher_size: int = 96,
    student: str = "lite0",
    student_size: int = 64,
    epochs: int = 10,
    seeds: int = 3,
) -> dict[str, Any]:
    """Return test accuracies and training times of each run, parameters and latencies of both networks.

    Args:
        data_root: photos in class folders.
        per_class: training photos of a class, at most; a fifth as many choose the best epoch, and the rest tests.
        teacher, student: names of the backbones.
        teacher_size, student_size: sides of their images, in pixels.
        epochs: passes of each run over the training photos.
        seeds: number of seeds of the student.

    Raises:
        UserError: a number is out of range, or a run failed.
    """
    for name, value in (("per_class", per_class), ("epochs", epochs), ("seeds", seeds)):
        check_count(name, value)
    with tempfile.TemporaryDirectory() as folder:
        table = save_table(data_root, Path(folder, "photos.csv"), per_class)
        task = ["--data_root", str(table), "--data.split_column", "split", "--trainer.max_epochs", str(epochs)]
        place = Path(folder, "teacher")
        taught_by = finetune([*task, "--backbone", teacher, "--image_size", str(teacher_size)], place)
        runs: dict[str, list[Results]] = {ALONE: [], TAUGHT: []}
        for seed in range(seeds):
            words = [*task, "--backbone", student, "--image_size", str(student_size), "--seed", str(seed)]
            for name, more in ((ALONE, []), (TAUGHT, ["--teacher", str(place)])):
                runs[name].append(finetune([*words, *more], Path(folder, f"{name} {seed}")))
    gains = [taught.test.top1 - alone.test.top1 for alone, taught in zip(*runs.values(), strict=True)]
    return {
        "images": {name: split.size for name, split in taught_by.splits.items()},
        "epochs": epochs,
        "distill": runs[TAUGHT][0].config["distill"],
        "teacher": {**figures(taught_by), **network(teacher, teacher_size, taught_by)},
        "student": network(student, student_size, runs[ALONE][0]),
        **{name: [figures(run) for run in found] for name, found in runs.items()},
        "mean_test_top1": {name: statistics.mean(run.test.top1 for run in found) for name, found in runs.items()},
        "gains": gains,
    }


def save_table(data_root: Path, path: Path, per_class: int) -> Path:
    """Write a table of the photos, in an order that their content decides, with their splits, and return its path."""
    classes: dict[str, list[tuple[str, Path]]] = {}
    for image in sorted(p for p in data_root.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES):
        classes.setdefault(image.parent.name, []).append((sha256(image.read_bytes()).hexdigest(), image))

    def rows() -> Iterator[tuple[str, str, str]]:
        for name, images in classes.items():
            for number, (_, image) in enumerate(sorted(images)):
                split = "train" if number < per_class else "val" if number < 1.2 * per_class else "test"
                yield str(image), name, split

    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows()])
    return path


def finetune(words: list[str], run_dir: Path) -> Results:
    """Return the results of one run.

    Raises:
        UserError: it failed.
    """
    place = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--out_dir", str(run_dir)]
    command = [sys.executable, "-m", "transfer", "finetune", *words, *place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"finetune {' '.join(words)} failed: {done.stderr.strip()[-300:]}")
    return read_results(run_dir)


def figures(run: Results) -> dict[str, Any]:
    """Return what is told of a run."""
    return {"seed": run.seed, "test": dict(run.test), "steps": run.steps, "train_seconds": run.train_seconds}


def network(backbone: str, image_size: int, run: Results) -> dict[str, Any]:
    """Return what is told of a run's network: its size, and its latency for one image on one thread."""
    from transfer import build_classifier
    from transfer.costs.latency import measure_latency

    classifier = build_classifier(backbone, len(run.splits["train"].class_counts), load_weights=False)
    latency = measure_latency(classifier, image_size, threads=1)
    return {
        "backbone": backbone,
        "image_size": image_size,
        "num_parameters": run.num_parameters,
        "latency_ms": round(latency.median_ms, 2),
        "device": latency.device,
    }
