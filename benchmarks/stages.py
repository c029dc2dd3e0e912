"""What pooled maps of earlier stages bring a linear probe: python -m benchmarks stages FEATURES

FEATURES are files that `efficientnet-transfer probe` or `choose` has left in its cache, such as those of train and val:
their images are pooled. Draws of them are stratified and seeded, as in `small_data`: N train, a fifth as many, from 10
to 300, are val, up to 1,000 of the others test. `last` sees the last map alone, `stages` the maps before it, too, and
`auto` says which of them the probe takes by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.features import add_draw_options, draw_splits, pool
from transfer.errors import check_count
from transfer.statistics import mean_interval

if TYPE_CHECKING:
    from transfer.probe.features import Features


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_stages`."""
    add_draw_options(parser, [30, 300, 2700], 5)


def benchmark_stages(features: Sequence[Path], last: int, num_images: Sequence[int], draws: int) -> dict[str, Any]:
    """Return, for each number of training images, a row for each draw, and the mean gains over the last map alone.

    Args:
        features: files with the images of one dataset.
        last: features of the last map, the first ones.
        num_images: numbers of training images.
        draws: draws of each, with seeds from 0.
    """
    check_count("draws", draws)
    images = pool(features)
    figures: dict[str, Any] = {"files": [path.name for path in features], "images": len(images.labels)}
    for number in num_images:
        rows = [try_draw(images, last, number, seed) for seed in range(draws)]
        gains = {
            "stages": [row["stages"]["test_top1"] - row["last"]["test_top1"] for row in rows],
            "auto": [row[row["auto"]]["test_top1"] - row["last"]["test_top1"] for row in rows],
        }
        figures[str(number)] = {
            "draws": rows,
            "mean_gain": {name: asdict(mean_interval(values)) for name, values in gains.items()},
        }
    return figures


def try_draw(images: Features, last: int, number: int, seed: int) -> dict[str, Any]:
    """Return the seed of a draw, what `auto` takes and, of each way, its test accuracy, penalty and seconds."""
    from transfer.probe.linear import fit_probe, linear_metrics

    train, val, test = draw_splits(images, number, seed)
    every, row = images.features.shape[1], dict[str, Any](seed=seed)

    def measure(*widths: int) -> str:
        """Fit to one of the widths, keep its figures, and return its name."""
        started = time.perf_counter()
        probe = fit_probe([train], val, int(images.labels.max()) + 1, widths=widths)
        seconds = round(time.perf_counter() - started, 2)
        name = "stages" if probe.num_features == every else "last"
        top1 = linear_metrics(probe.fit, test.leading(probe.num_features))["top1"]
        row[name] = {"test_top1": top1, "penalty": probe.penalty, "seconds": seconds}
        return name

    row["auto"] = measure(last, every)
    measure(every if row["auto"] == "last" else last)
    print(number, row, flush=True)
    return row
