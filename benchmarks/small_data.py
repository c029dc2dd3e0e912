"""Accuracy and time of ways to learn from few photos: python -m benchmarks small_data --data_root DIR --out_dir DIR

Draws of photos are stratified and seeded; all methods get the same ones. What is not drawn tests, at most 1,000 photos.
Each run keeps its folder in --out_dir: called again, with other --only or --draws, too, the benchmark goes on where it
stopped, and tells of all runs that are there.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.errors import UserError, check_count, unknown_name
from transfer.experiments.child_run import drop_checkpoints, run_command
from transfer.files import expanded, write_text
from transfer.images.decode import PICTURE_SUFFIXES
from transfer.markdown import markdown_table
from transfer.run_files import RESULTS
from transfer.runs.results import Results, read_results
from transfer.statistics import mean_interval

MOST_TESTED = 1000
Photos = list[tuple[str, str]]  # path and label


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
        data: `clothing`, `cifar10`, or `digits`, all of which is one draw for each seed.
        num_images: drawn training images; a fifth as many, from 10 to 300, are drawn for val.
        image_size: in pixels.
        epochs: of the methods that are given a length.
    """

    data: str
    num_images: int
    image_size: int
    epochs: int


TASKS = {
    "clothing-30": Task("clothing", 30, 128, 50),
    "clothing-100": Task("clothing", 100, 128, 50),
    "clothing-300": Task("clothing", 300, 128, 50),
    "clothing-2700": Task("clothing", 2700, 128, 20),
    "cifar10-100": Task("cifar10", 100, 64, 50),
    "cifar10-500": Task("cifar10", 500, 64, 50),
    "digits": Task("digits", 1257, 64, 20),
}

ADAMW = ("--optim.name", "adamw", "--optim.lr", "1e-3")
LENGTH = "--trainer.max_epochs"
# Of each method, a function of the task's epochs that returns the command and its words.
METHODS: dict[str, Callable[[int], tuple[str, ...]]] = {
    # Those of published datasets, and of many images.
    "defaults": lambda epochs: ("finetune", "--recipe", "none"),
    "probe": lambda epochs: ("probe",),
    "lpft": lambda epochs: ("finetune", "--method", "lpft"),
    # timm's usual fine-tuning: AdamW, cosine, weight decay 0.05.
    "timm": lambda epochs: ("finetune", *ADAMW, "--optim.weight_decay", "0.05", LENGTH, str(epochs)),
    # fastai's `fine_tune` (Howard & Gugger 2020): an epoch of the head alone, then all, from a hundredth of the head's
    # rate at the stem (0.562 ** 8), warmed up for 30% of the run; Adam, weight decay 0.01, half of 2e-3.
    "fastai": lambda epochs: (
        *("finetune", *ADAMW, "--optim.weight_decay", "0.01", "--optim.layer_decay", "0.562"),
        *("--freeze", "until-epoch 1", "--optim.warmup_epochs", str(0.3 * epochs), LENGTH, str(epochs + 1)),
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_small_data`."""
    parser.add_argument(
        "--data_root", type=expanded, required=True, metavar="DIR", help="folder that contains clothing/ and uoft-cs/"
    )
    parser.add_argument("--out_dir", type=expanded, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="tasks and methods; default: all")
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--markdown", type=expanded, metavar="FILE", help="also write a table to this file")


def benchmark_small_data(
    data_root: Path, out_dir: Path, only: Sequence[str] = (), draws: int = 5, markdown: Path | None = None
) -> dict[str, Any]:
    """Return, for each task and method, accuracy on test with its interval over the draws, and seconds.

    Args:
        data_root: folder with the photos.
        out_dir: folder of the runs.
        only: names of tasks and methods to run; none of one kind stands for all.
        draws: number of draws, with seeds from 0.
        markdown: file of a table.

    Raises:
        UserError: a name is unknown, or a run failed.
    """
    check_count("draws", draws)
    if unknown := set(only) - {*TASKS, *METHODS}:
        raise unknown_name("only", min(unknown), [*TASKS, *METHODS])
    for name in [task for task in TASKS if task in only] or TASKS:
        for seed in range(draws):
            data = words_of(TASKS[name], data_root, out_dir, seed)
            for method in [method for method in METHODS if method in only] or METHODS:
                command, *words = METHODS[method](TASKS[name].epochs)
                run(command, [*data, *words], out_dir, out_dir / f"{name}-{method}-{seed}")
    figures = {name: found for name in TASKS if (found := collect(name, out_dir))}
    if markdown is not None:
        write_text(markdown, describe(figures) + "\n")
    return figures


def words_of(task: Task, data_root: Path, out_dir: Path, seed: int) -> list[str]:
    """Return the words of a command that say what is learned by which network, and save the draw."""
    words = ["--image_size", str(task.image_size), "--seed", str(seed)]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    if task.data == "digits":
        return [*words, "--dataset", "digits"]
    table = out_dir / f"{task.data}-{task.num_images}-{seed}.csv"
    if not table.exists():
        out_dir.mkdir(parents=True, exist_ok=True)
        photos = clothing(data_root) if task.data == "clothing" else cifar10(data_root, out_dir / "cifar10")
        save_draw(photos, task.num_images, seed, table)
    small = ["--data.min_crop_area", "0.64"] if task.data == "cifar10" else []
    return [*words, "--data_root", str(table), "--data.split_column", "split", *small]


def clothing(data_root: Path) -> Photos:
    """Return the photos of both folders."""
    paths = sorted(p for p in (data_root / "clothing").rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise UserError(f"{data_root} has no photos in clothing/")
    return [(str(path.resolve()), path.parent.name) for path in paths]


def cifar10(data_root: Path, folder: Path) -> Photos:
    """Return the first 10,000 training images, whose files are written to a folder."""
    import pyarrow.parquet

    files = sorted((data_root / "uoft-cs/cifar10/plain_text").glob("train-*.parquet"))
    if not files:
        raise UserError(f"{data_root} has no uoft-cs/cifar10/plain_text/train-*.parquet")
    folder.mkdir(exist_ok=True)
    photos = []
    for number, row in enumerate(pyarrow.parquet.read_table(files[0])[:10_000].to_pylist()):
        path = folder / f"{number}{Path(row['img']['path'] or '.png').suffix}"
        path.write_bytes(row["img"]["bytes"])
        photos.append((str(path.resolve()), f"class{row['label']}"))
    return photos


def save_draw(photos: Photos, num_images: int, seed: int, path: Path) -> None:
    """Write a table of a draw's photos with their splits."""
    splits = draw(np.array([label for _, label in photos]), num_images, seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [(*photo, split) for photo, split in zip(photos, splits, strict=True) if split]
        csv.writer(file).writerows([("path", "label", "split"), *rows])


def draw(labels: NDArray[np.str_], num_images: int, seed: int) -> NDArray[np.str_]:
    """Return the split of each photo, empty if it is left out.

    About `num_images` train, in the classes' shares and at least one of each class, a fifth as many, from 10 to 300,
    are val, and up to 1,000 of the others test.
    """
    rng = np.random.default_rng(seed)
    splits = np.full(len(labels), "", dtype="<U5")
    num_val = min(max(10, num_images // 5), 300)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        train, val = (max(1, round(count * len(members) / len(labels))) for count in (num_images, num_val))
        splits[members[:train]], splits[members[train : train + val]] = "train", "val"
    splits[rng.permutation(np.flatnonzero(splits == ""))[:MOST_TESTED]] = "test"
    return splits


def run(command: str, words: Sequence[str], out_dir: Path, run_dir: Path) -> None:
    """Run a command unless its folder holds the results; a fine-tuning that was killed goes on.

    Raises:
        UserError: it failed.
    """
    argv = run_command(run_dir, words)
    if argv is None:
        return
    if command == "probe":
        argv = ["-m", "transfer", "probe", *words, "--out_dir", str(run_dir)]
    print(run_dir.name, flush=True)
    done = call(argv, out_dir / "cache")
    if done.returncode:
        raise UserError(f"{run_dir.name}: {command} {' '.join(words)} failed: {done.stderr.strip()[-300:]}")
    drop_checkpoints(run_dir)


def call(argv: Sequence[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """Return what became of a command whose cached features are in a folder of its own."""
    own = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, env=own, check=False)


def collect(name: str, out_dir: Path) -> dict[str, Any]:
    """Return what all finished runs of a task found, by method."""
    found: dict[str, Any] = {}
    probes = {each.seed: each.test["top1"] for each in finished(name, "probe", out_dir)}
    for method in METHODS:
        runs = list(finished(name, method, out_dir))
        if not runs:
            continue
        found["images"] = {split: facts.size for split, facts in runs[0].splits.items()}
        gains = [each.test["top1"] - probes[each.seed] for each in runs if each.seed in probes]
        found[method] = {
            "words": METHODS[method](TASKS[name].epochs),
            "seeds": [each.seed for each in runs],
            "test_top1": [each.test["top1"] for each in runs],
            "val_top1": [each.val["top1"] for each in runs],
            "wall_seconds": [each.wall_seconds for each in runs],
            "mean_test_top1": asdict(mean_interval([each.test["top1"] for each in runs])),
            "mean_gain_over_probe": asdict(mean_interval(gains)) if gains else None,
        }
    return found


def finished(name: str, method: str, out_dir: Path) -> Iterator[Results]:
    """Yield the results of the draws of a task that a method has learned."""
    for seed in range(1000):
        if not (run_dir := out_dir / f"{name}-{method}-{seed}").exists():
            return
        if (run_dir / RESULTS).exists():
            yield read_results(run_dir)


def describe(figures: dict[str, Any]) -> str:
    """Return a table: a row for each task and method."""

    def rows() -> Iterator[tuple[str, ...]]:
        for name, found in figures.items():
            for method, values in found.items():
                if method != "images":
                    accuracy, gain = (percent(values[key]) for key in ("mean_test_top1", "mean_gain_over_probe"))
                    seconds = f"{statistics.median(values['wall_seconds']):.0f} s"
                    yield name, method, str(len(values["seeds"])), accuracy, gain, seconds

    heads = ("task", "method", "draws", "test top-1, % (95% interval over draws)", "less the probe's", "median time")
    return markdown_table(heads, rows())


def percent(mean: dict[str, float] | None) -> str:
    """Return a mean share in percent, with its interval."""
    if mean is None:
        return ""
    interval = "" if mean["low"] is None else f" ({100 * mean['low']:.1f} to {100 * mean['high']:.1f})"
    return f"{100 * mean['value']:.1f}{interval}"
