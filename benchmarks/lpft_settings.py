"""What other settings bring LP-FT: python -m benchmarks lpft_settings TASK --data_root DIR --out_dir DIR

Tasks, draws and runs are those of `small_data`, whose --out_dir may be shared: called again, the benchmark goes on
where it stopped. Each draw is learned by the rule's settings, by the other rates and weight decays that `choose
--search` tries, and with a warm-up of one epoch. `search` takes, in each draw, the rate and the decay that are best on
val, the rule's unless others are better; unlike `choose`, it trains all of them in full.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.small_data import METHODS, TASKS, add_draw_options, run, run_row, words_of
from transfer.commands.choose.search import TRIED
from transfer.config.auto import choose_lpft
from transfer.errors import check_count
from transfer.runs.results import read_results
from transfer.statistics import mean_interval

RULE, WARM_UP = "lpft", ("--optim.warmup_epochs", "1")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_lpft_settings`."""
    parser.add_argument("task", choices=TASKS)
    add_draw_options(parser)
    most = range(2, len(TRIED) + 1)
    parser.add_argument("--search", type=int, choices=most, default=4, metavar="N", help="as in choose; default: 4")


def benchmark_lpft_settings(task: str, data_root: Path, out_dir: Path, search: int, draws: int) -> dict[str, Any]:
    """Return the runs of each setting, and their mean gains on test over the rule's with their intervals over draws.

    Args:
        task: name of one of `small_data`'s tasks.
        data_root: folder with the photos.
        out_dir: folder of the runs.
        search: how many pairs of rate and weight decay `search` chooses among, the rule's among them.
        draws: number of draws, with seeds from 0.

    Raises:
        UserError: a run failed.
    """
    check_count("draws", draws)
    command, *words = METHODS["lpft"](TASKS[task].epochs)
    searched = searched_settings(search)
    settings = {RULE: (), **searched, "warm-up of one epoch": WARM_UP}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    for seed in range(draws):
        data = words_of(TASKS[task], data_root, out_dir, seed)
        for name, others in settings.items():
            run_dir = out_dir / f"{task}-{name.replace(' ', '_')}-{seed}"
            run(command, [*data, *words, *others], out_dir, run_dir)
            runs[name].append(run_row(read_results(run_dir)))
    runs["search"] = best_on_val([runs[name] for name in (RULE, *searched)])
    return {"task": task} | {
        name: {"words": settings.get(name), "runs": rows, "mean_gain_over_rule": mean_gain(rows, runs[RULE])}
        for name, rows in runs.items()
    }


def searched_settings(search: int) -> dict[str, tuple[str, ...]]:
    """Return the words of the settings that a search of so many tries beside the rule's, by name."""
    rate = next(float(rule.value) for rule in choose_lpft(1) if rule.field == "optim.lr")
    return {
        f"rate {factor * rate:.2g}, decay {decay:g}": (
            *("--optim.lr", f"{factor * rate:.2g}"),
            *("--optim.weight_decay", f"{decay:g}"),
        )
        for factor, decay in TRIED[1:search]
    }


def best_on_val(settings: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return, for each draw, the run that is best on val; of equal ones, that of the first of the settings."""
    return [max(runs, key=lambda run: run["val_top1"]) for runs in zip(*settings, strict=True)]


def mean_gain(runs: Sequence[dict[str, Any]], rule: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean difference of test accuracy, from -1 to 1, with its interval over draws."""
    pairs = zip(runs, rule, strict=True)
    return asdict(mean_interval([mine["test_top1"] - theirs["test_top1"] for mine, theirs in pairs]))
