"""Accuracy and time of ways to learn from few photos: python -m benchmarks small_data --data_root DIR --out_dir DIR

Draws of photos are stratified and seeded; all methods get the same ones. What is not drawn tests, at most 1,000 photos.
Each run keeps its folder in --out_dir: called again, with other --only or --draws, too, the benchmark goes on where it
stopped, and tells of all runs that are there. With --earlier FILE it does not repeat the runs of an earlier --json
FILE, and tells of them, too.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.draws import cifar10, clothing, save_draw
from transfer.errors import BadValue, UserError, check_count, unknown_name
from transfer.experiments.child_run import drop_checkpoints, probe_command, run_command
from transfer.files import expanded, read_object, write_json, write_text
from transfer.markdown import markdown_table
from transfer.run_files import RESULTS
from transfer.runs.results import Results, read_results
from transfer.statistics import bounded, mean_interval

PROCESSOR = "processor.json"  # in a run's folder: seconds of processor time, of a run that was never stopped


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
# Of each method, a function of the task's epochs that returns the command and its words; the others' gains are over the
# first.
METHODS: dict[str, Callable[[int], tuple[str, ...]]] = {
    "probe": lambda epochs: ("probe",),
    # Those of published datasets, and of many images.
    "defaults": lambda epochs: ("finetune", "--recipe", "none"),
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
    add_draw_options(parser)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="tasks and methods; default: all")
    parser.add_argument("--earlier", type=expanded, metavar="FILE", help="figures of an earlier call, to add to")
    parser.add_argument("--markdown", type=expanded, metavar="FILE", help="also write a table to this file")


def add_draw_options(parser: argparse.ArgumentParser) -> None:
    """Add the folders of photos and of runs, and the number of draws."""
    parser.add_argument(
        "--data_root", type=expanded, required=True, metavar="DIR", help="folder that contains clothing/ and uoft-cs/"
    )
    parser.add_argument("--out_dir", type=expanded, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="default: 5")


def benchmark_small_data(
    data_root: Path,
    out_dir: Path,
    only: Sequence[str] = (),
    draws: int = 5,
    earlier: Path | None = None,
    markdown: Path | None = None,
) -> dict[str, Any]:
    """Return, for each task and method, its runs, and their accuracy on test with its interval over the draws.

    Args:
        data_root: folder with the photos.
        out_dir: folder of the runs.
        only: names of tasks and methods to run; none of one kind stands for all.
        draws: number of draws, with seeds from 0.
        earlier: file of what an earlier call returned; its runs stand beside those in `out_dir`.
        markdown: file of a table.

    Raises:
        UserError: a name is unknown, or a run failed.
    """
    check_count("draws", draws)
    if unknown := set(only) - {*TASKS, *METHODS}:
        raise unknown_name("only", min(unknown), [*TASKS, *METHODS])
    known = {} if earlier is None else read_object(earlier)
    for name in [task for task in TASKS if task in only] or TASKS:
        for seed in range(draws):
            data = words_of(TASKS[name], data_root, out_dir, seed)
            for method in [method for method in METHODS if method in only] or METHODS:
                if seed in earlier_runs(known, name, method):
                    continue
                command, *words = METHODS[method](TASKS[name].epochs)
                run(command, [*data, *words], out_dir, out_dir / f"{name}-{method}-{seed}")
    figures = {name: found for name in TASKS if (found := collect(name, out_dir, known))}
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


def run(command: str, words: Sequence[str], out_dir: Path, run_dir: Path) -> None:
    """Run a command unless its folder holds the results; a fine-tuning that was killed goes on.

    Raises:
        UserError: it failed.
    """
    argv = probe_command(run_dir, words) if command == "probe" else run_command(run_dir, words)
    if argv is None:
        return
    print(run_dir.name, flush=True)
    before = processor_seconds()
    done = call(argv, out_dir / "cache")
    if done.returncode:
        raise UserError(f"{run_dir.name}: {command} {' '.join(words)} failed: {done.stderr.strip()[-300:]}")
    if "--resume" not in argv:
        write_json(run_dir / PROCESSOR, {"seconds": round(processor_seconds() - before, 1)})
    drop_checkpoints(run_dir)


def processor_seconds() -> float:
    """Return the seconds of all cores that the processes which this one has waited for took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def call(argv: Sequence[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """Return what became of a command whose cached features are in a folder of its own."""
    own = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, env=own, check=False)


def collect(name: str, out_dir: Path, earlier: dict[str, Any]) -> dict[str, Any]:
    """Return all finished runs of a task, those of earlier figures, too, and what they found, by method."""
    sizes, methods, probes = earlier.get(name, {}).get("images"), {}, {}
    for method, words in METHODS.items():
        runs = earlier_runs(earlier, name, method)
        for results in finished(name, method, out_dir):
            sizes = {split: facts.size for split, facts in results.splits.items()}
            runs[results.seed] = run_row(results)
        rows = [runs[seed] for seed in sorted(runs)]
        if method == "probe":
            probes = {run["seed"]: run["test_top1"] for run in rows}
        gains = [run["test_top1"] - probes[run["seed"]] for run in rows if run["seed"] in probes]
        if rows:
            methods[method] = {
                "words": words(TASKS[name].epochs),
                "runs": rows,
                "mean_test_top1": asdict(bounded(mean_interval([run["test_top1"] for run in rows]), 0, 1)),
                "mean_gain_over_probe": asdict(mean_interval(gains)) if gains else None,
            }
    return {"images": sizes, **methods} if methods else {}


def earlier_runs(earlier: dict[str, Any], name: str, method: str) -> dict[int, dict[str, Any]]:
    """Return the runs of a task and method that earlier figures hold, by seed.

    Raises:
        BadValue: they had other words.
    """
    words, before = list(METHODS[method](TASKS[name].epochs)), earlier.get(name, {}).get(method)
    if before is None:
        return {}
    if before["words"] != words:
        raise BadValue(f"`earlier`: {name} {method} ran {before['words']}, which is {words} now: leave it out")
    return {run["seed"]: run for run in before["runs"]}


def run_row(results: Results) -> dict[str, Any]:
    """Return what the figures keep of a run; its processor time is None if it was stopped and went on."""
    cost = results.run_dir / PROCESSOR
    return {
        "seed": results.seed,
        "test_top1": results.test["top1"],
        "val_top1": results.val["top1"],
        "wall_seconds": results.wall_seconds,
        "processor_seconds": read_object(cost)["seconds"] if cost.exists() else None,
        "git_commit": results.environment.get("git_commit"),
    }


def finished(name: str, method: str, out_dir: Path) -> Iterator[Results]:
    """Yield the results of the draws of a task that a method has learned."""
    for results in sorted(out_dir.glob(f"{name}-{method}-*/{RESULTS}")):
        yield read_results(results.parent)


def describe(figures: dict[str, Any]) -> str:
    """Return a table: a row for each task and method."""

    def rows() -> Iterator[tuple[str, ...]]:
        for name, found in figures.items():
            for method, values in found.items():
                if method == "images":
                    continue
                accuracy, gain = (percent(values[key]) for key in ("mean_test_top1", "mean_gain_over_probe"))
                times = (median_seconds(values["runs"], key) for key in ("wall_seconds", "processor_seconds"))
                yield name, method, str(len(values["runs"])), accuracy, gain, *times

    heads = ("task", "method", "draws", "test top-1, % (95% interval over draws)", "less the probe's")
    return markdown_table((*heads, "median time", "of all cores together"), rows())


def median_seconds(runs: Sequence[dict[str, Any]], key: str) -> str:
    """Return the median of the runs that have this time; empty if none has."""
    seconds = [run[key] for run in runs if run[key] is not None]
    return f"{statistics.median(seconds):.0f} s" if seconds else ""


def percent(mean: dict[str, float] | None) -> str:
    """Return a mean share in percent, with its interval."""
    if mean is None:
        return ""
    interval = "" if mean["low"] is None else f" ({100 * mean['low']:z.1f} to {100 * mean['high']:z.1f})"
    return f"{100 * mean['value']:z.1f}{interval}"
