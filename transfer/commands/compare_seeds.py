"""Compare two settings of several seeds each on the same test images: `compare RUN_A RUN_A --with RUN_B RUN_B`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.compare import (
    METRIC_TITLES,
    FinishedRun,
    check_predictions,
    check_same_test,
    print_settings,
    read_run,
)
from transfer.commands.console import check_folder
from transfer.commands.tables import print_table
from transfer.errors import BadValue

if TYPE_CHECKING:
    from transfer.seeds import SeedDifference


def compare_settings(runs: Sequence[Path], others: Sequence[Path], json: Path | None = None) -> None:
    """Print how two settings differ on the test images and over their seeds, and which is better.

    Args:
        runs: folders of the finished runs of setting A, one a seed.
        others: those of setting B.
        json: file that receives the numbers, too.

    Raises:
        MissingData: a run is not finished.
        BadValue: they were not all tested on the same images, or a setting has two runs of a seed.
        DamagedFile: a run's results cannot be read.
    """
    import numpy as np

    from transfer.commands.compare_words import find_differences, judge_settings
    from transfer.files import write_json
    from transfer.seeds import compare_seeds
    from transfer.statistics import Metric, mean_per_class, top1

    check_folder("json", json)
    sides = {"a": _read_seeds(runs), "b": _read_seeds(others)}
    first, labels = sides["a"][0], sides["a"][0].labels
    for run in (*sides["a"], *sides["b"]):
        check_same_test(first, run)
        check_predictions(run)
    paired = [run.results.seed for run in sides["a"]] == [run.results.seed for run in sides["b"]]
    a, b = (np.stack([run.predictions for run in side]) for side in sides.values())
    metrics: dict[Metric, Any] = {"top1": top1, "mean_per_class": mean_per_class}
    differences = {metric: compare_seeds(labels, a, b, metric, paired=paired) for metric in metrics}
    accuracies = {
        metric: {name: [measure(labels, run.predictions) for run in side] for name, side in sides.items()}
        for metric, measure in metrics.items()
    }
    settings = find_differences(first.results, sides["b"][0].results)
    settings.pop("seed", None)
    quoted: Metric = "mean_per_class" if first.results.quoted_metric == "mean_per_class" else "top1"
    verdict = judge_settings(differences[quoted], len(labels))
    for name, side in sides.items():
        print(f"{name.upper()}: {'; '.join(map(str, side))}")
        for line in _within(side):
            print(f"  {line}")
    print_settings(settings)
    _print_differences(len(labels), accuracies, differences)
    print(f"{METRIC_TITLES[quoted]}: {verdict}")
    for missing in first.results.decay.values():
        print(f"on {missing}")
    if json is not None:
        found = {name: {**accuracies[name], "difference": asdict(differences[name])} for name in metrics}
        content = {"runs_a": list(map(str, runs)), "runs_b": list(map(str, others)), "dataset": first.results.dataset}
        differ = {name: {"a": left, "b": right} for name, (left, right) in settings.items()}
        numbers = {"num_test_images": len(labels), "metrics": found, "verdict": verdict}
        write_json(json, {**content, "settings": differ, **numbers})


def _read_seeds(paths: Sequence[Path]) -> list[FinishedRun]:
    """Return the runs of a setting in the order of their seeds.

    Raises:
        BadValue: two have the same seed.
    """
    runs = sorted((read_run(path) for path in paths), key=lambda run: run.results.seed)
    for one, other in pairwise(runs):
        if one.results.seed == other.results.seed:
            raise BadValue(
                f"{one.path} and {other.path} are both of seed {one.results.seed}: give one run of each seed"
            )
    return runs


def _within(side: Sequence[FinishedRun]) -> list[str]:
    """Return what sets the runs of one setting apart besides their seeds, which a reader must know of."""
    from transfer.commands.compare_words import find_differences

    lines = []
    for run in side[1:]:
        found = find_differences(side[0].results, run.results)
        lines += [
            f"not only the seed: {name} is {here} in {side[0].path}, {there} in {run.path}"
            for name, (here, there) in found.items()
            if name != "seed"
        ]
    return lines


def _print_differences(
    num_images: int, accuracies: dict[Any, dict[str, list[float]]], differences: dict[Any, SeedDifference]
) -> None:
    """Print a column for each metric: A, B, and A less B in points with its interval over seeds and images."""
    from rich.table import Table

    found = next(iter(differences.values()))
    a, b = found.num_seeds
    seeds = f"{a} seeds in pairs" if found.paired else f"{a} and {b} seeds"
    table = Table(title=f"{num_images:,} test images, {seeds}", title_justify="left")
    table.add_column("")
    columns = []
    for metric, difference in differences.items():
        table.add_column(METRIC_TITLES[metric], justify="right")
        means = [f"{sum(values) / len(values):.2%}" for values in accuracies[metric].values()]
        value, low, high = (f"{100 * share:+z.2f}" for share in (difference.value, difference.low, difference.high))
        columns.append([*means, value, f"{low} to {high}", f"{difference.p_value:.2g}"])
    heads = ("A, mean of the seeds", "B, mean of the seeds", "A less B, points", "95% interval", "p")
    for row in zip(heads, *columns, strict=True):
        table.add_row(*row)
    print_table(table)
