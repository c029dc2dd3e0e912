"""Where few images choose a linear probe's penalty, on val or in train: python -m benchmarks penalties FEATURES

FEATURES are files that `efficientnet-transfer probe` or `choose` has left in its cache, such as those of train and val:
their images are pooled. Draws of them are stratified and seeded, as in `small_data`: N train, a fifth as many, from 10
to 300, are val, up to 1,000 of the others test. Both ways get the same draws.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from benchmarks.features import add_draw_options, draw_splits, pool
from transfer.errors import check_count
from transfer.statistics import mean_interval

if TYPE_CHECKING:
    from transfer.probe.features import Features


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_penalties`."""
    add_draw_options(parser, [30, 100, 300, 1000], 20)


def benchmark_penalties(features: Sequence[Path], last: int, num_images: Sequence[int], draws: int) -> dict[str, Any]:
    """Return, for each number of training images, the test accuracies, the penalties and the seconds of both ways.

    Args:
        features: files with the images of one dataset.
        last: features of the last map, the first ones; a head sees them or all.
        num_images: numbers of training images.
        draws: draws of each, with seeds from 0.
    """
    check_count("draws", draws)
    images = pool(features)
    figures: dict[str, Any] = {"files": [path.name for path in features], "images": len(images.labels)}
    for number in num_images:
        rows = [try_draw(images, last, number, seed) for seed in range(draws)]
        gains = [row["train"]["test_top1"] - row["val"]["test_top1"] for row in rows]
        figures[str(number)] = {
            **{place: {name: [row[place][name] for row in rows] for name in rows[0][place]} for place in rows[0]},
            "mean_test_top1": {place: float(np.mean([row[place]["test_top1"] for row in rows])) for place in rows[0]},
            "mean_gain_of_train": asdict(mean_interval(gains)),
        }
    return figures


def try_draw(images: Features, last: int, number: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the test accuracy, the penalty and the seconds of each way, for one draw."""
    from transfer.probe import linear

    train, val, test = draw_splits(images, number, seed)
    widths = last, images.features.shape[1]
    found: dict[str, dict[str, float]] = {}
    for place, most in (("train", len(train.labels)), ("val", 0)):
        started = time.perf_counter()
        with patch.object(linear, "MOST_CROSS_VALIDATED", most):
            probe = linear.fit_probe([train], val, int(images.labels.max()) + 1, widths=widths)
        seconds = time.perf_counter() - started
        assert probe.chosen_on == place
        top1 = linear.linear_metrics(probe.fit, test.leading(probe.num_features))["top1"]
        found[place] = {"test_top1": top1, "penalty": probe.penalty, "seconds": round(seconds, 2)}
    return found
