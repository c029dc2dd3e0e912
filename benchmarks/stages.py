"""What pooled maps of earlier stages bring a linear probe: python -m benchmarks stages FEATURES

FEATURES are files that `efficientnet-transfer probe` or `choose` has left in its cache, such as those of train and val:
their images are pooled. Draws of them are stratified and seeded, as in `small_data`: N train, a fifth as many, from 10
to 300, are val, up to 1,000 of the others test. `last` sees the last map alone, `stages` the maps before it, too, and
`auto` is what cross-validation in train or, of 1,000 images or more, val prefers. All get the same draws.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.small_data import draw
from transfer.errors import check_count
from transfer.files import expanded
from transfer.statistics import mean_interval

if TYPE_CHECKING:
    from transfer.probe.features import Features


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_stages`."""
    parser.add_argument("features", type=expanded, nargs="+", metavar="FEATURES", help="files of features")
    parser.add_argument("--last", type=int, default=1280, metavar="N", help="features of the last map; default: 1280")
    parser.add_argument("--num_images", type=int, nargs="+", default=[30, 300, 2700], metavar="N", help="of train")
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="default: 5")


def benchmark_stages(features: Sequence[Path], last: int, num_images: Sequence[int], draws: int) -> dict[str, Any]:
    """Return, for each number of training images, a row for each draw, and the mean gains over `last`.

    Args:
        features: files with the images of one dataset.
        last: features of the last map, the first ones.
        num_images: numbers of training images.
        draws: draws of each, with seeds from 0.
    """
    import torch

    from transfer.probe.features import Features, read_features

    check_count("draws", draws)
    parts = [read_features(path) for path in features]
    images = Features(torch.cat([p.features for p in parts]), torch.cat([p.labels for p in parts]))
    figures: dict[str, Any] = {"files": [path.name for path in features], "images": len(images.labels)}
    for number in num_images:
        rows = [try_draw(images, last, number, seed) for seed in range(draws)]
        gains = {
            name: asdict(mean_interval([row[name]["test_top1"] - row["last"]["test_top1"] for row in rows]))
            for name in ("stages", "auto")
        }
        figures[str(number)] = {"draws": rows, "mean_gain": gains}
    return figures


def try_draw(images: Features, last: int, number: int, seed: int) -> dict[str, Any]:
    """Return the seed of a draw and, of each way, its test accuracy, its features, its penalty and its seconds."""
    import torch

    from transfer.probe.features import Features
    from transfer.probe.linear import fit_probe, linear_metrics

    splits = draw(np.array([str(label) for label in images.labels.tolist()]), number, seed)
    train, val, test = (
        Features(images.features[chosen], images.labels[chosen])
        for chosen in (torch.from_numpy(splits == name) for name in ("train", "val", "test"))
    )
    every = images.features.shape[1]
    row: dict[str, Any] = {"seed": seed}
    for name, widths in {"last": [last], "stages": [every], "auto": [last, every]}.items():
        started = time.perf_counter()
        probe = fit_probe([train], val, int(images.labels.max()) + 1, widths=widths)
        seconds = round(time.perf_counter() - started, 2)
        top1 = linear_metrics(probe.fit, test.leading(probe.num_features))["top1"]
        facts = {"num_features": probe.num_features, "penalty": probe.penalty, "seconds": seconds}
        row[name] = {"test_top1": top1, **facts}
        print(number, seed, name, row[name], flush=True)
    return row
