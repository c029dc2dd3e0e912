"""Whether extrapolated learning curves hold: python -m benchmarks learning_curve --data_root DIR --cache_dir DIR

Of each draw, a curve is measured on --images photos and extrapolated to two and four times as many, as `choose
--learning_curve` does. The truth: the head that cross-validation chooses on the same photos, and on the same photos and
others up to two and four times as many, tested on all photos that no draw of four times takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transfer.errors import check_count
from transfer.files import expanded

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from transfer.probe.features import Features

FACTORS = (1, 2, 4)
FOLDS = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_learning_curve`."""
    parser.add_argument("--data_root", type=expanded, required=True, metavar="DIR", help="folder of photos")
    parser.add_argument("--cache_dir", type=expanded, required=True, metavar="DIR", help="folder of the features")
    parser.add_argument("--backbone", default="lite0", help="default: lite0")
    parser.add_argument("--image_size", type=int, default=128, help="pixels; default: 128")
    parser.add_argument("--images", type=int, nargs="+", default=[300], metavar="N", help="default: 300")
    parser.add_argument("--draws", type=int, default=20, help="of each number; default: 20")


def benchmark_learning_curve(
    data_root: Path,
    cache_dir: Path,
    backbone: str = "lite0",
    image_size: int = 128,
    images: Sequence[int] = (300,),
    draws: int = 20,
) -> dict[str, Any]:
    """Return, for each number of photos and factor, errors of the extrapolation and how many intervals cover.

    Args:
        data_root: folder of photos.
        cache_dir: folder of the features, which later calls read.
        backbone: a backbone with weights.
        image_size: side of the network's input.
        images: numbers of photos from which curves are extrapolated.
        draws: of each number, with seeds from 0.
    """
    check_count("draws", draws)
    features, dataset = compute_features(data_root, cache_dir, backbone, image_size)
    figures: dict[str, Any] = {"photos": len(features.labels), "backbone": backbone, "image_size": image_size}
    for number in images:
        rows = []
        for seed in range(draws):
            rows.append(one_draw(features, dataset.num_classes, number, seed))
            print(rows[-1], flush=True)
        figures[f"{number} photos"] = summarise(rows) | {"draws": rows}
    return figures


def compute_features(data_root: Path, cache_dir: Path, backbone: str, image_size: int) -> tuple[Features, Dataset]:
    """Return the features of all photos, split after split, and the photos."""
    import torch

    from benchmarks.probe_choices import compute
    from transfer.probe.features import Features

    options = [
        "--dataset",
        "folder",
        "--data_root",
        str(data_root),
        "--backbone",
        backbone,
        "--feature_dtype",
        "float32",
    ]
    options += ["--image_size", str(image_size), "--data.cache_dir", str(cache_dir), "--trainer.accelerator", "cpu"]
    found, dataset, _ = compute(options)
    parts = [found[name][0] for name in dataset.splits]
    return Features(torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts])), dataset


def one_draw(features: Features, num_classes: int, images: int, seed: int) -> dict[str, Any]:
    """Return, for each factor, the extrapolated and the measured accuracy, and what they gain over the drawn photos."""
    from transfer.probe.cross_validation import cross_validate
    from transfer.probe.folds import draw_folds
    from transfer.probe.learning_curve import draw_order, extrapolate, measure_curve

    labels = features.labels.numpy()
    order = draw_order(labels, None, seed)
    tested = order >= max(FACTORS) * images / len(labels)
    truth = []
    for factor in FACTORS:
        mine = order < factor * images / len(labels)
        found = cross_validate([take(features, mine)], num_classes, draw_folds(labels[mine], FOLDS, 1, seed))
        predicted = found.fit.logits(features.features[tested]).argmax(1).numpy()
        truth.append(float(np.mean(predicted == labels[tested])))
        if factor == 1:
            drawn, head, now = take(features, mine), found.choice.head, int(mine.sum())
    curve = extrapolate(measure_curve(drawn, num_classes, head, FOLDS, seed=seed))
    row: dict[str, Any] = {"seed": seed, "measured": truth}
    if isinstance(curve, str):
        return row | {"refusal": curve}
    for factor, accuracy in zip(FACTORS, truth, strict=True):
        value, interval = curve.accuracy(factor * now)
        gain, bounds = curve.gain(now, factor * now)
        row[f"{factor}x"] = {
            **{"accuracy": value, "low": interval.low, "high": interval.high, "error": value - accuracy},
            **{"gain": gain, "gain_low": bounds.low, "gain_high": bounds.high},
            "gain_error": gain - (accuracy - truth[0]),
            "covers": interval.low <= accuracy <= interval.high,
            "gain_covers": bounds.low <= accuracy - truth[0] <= bounds.high,
        }
    return row


def take(features: Features, mask: NDArray[np.bool_]) -> Features:
    """Return the features of some images."""
    from transfer.probe.features import Features

    chosen = features.labels.new_tensor(mask).bool()
    return Features(features.features[chosen], features.labels[chosen])


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return, for each factor, mean and mean absolute errors, the share of intervals that cover, and their width."""
    told = [row for row in rows if "refusal" not in row]
    figures: dict[str, Any] = {"refused": len(rows) - len(told)}
    mean_gains = {
        factor: float(np.mean([row["measured"][number] - row["measured"][0] for row in rows]))
        for number, factor in enumerate(FACTORS)
    }
    for factor in FACTORS if told else ():
        cells = [row[f"{factor}x"] for row in told]
        mean_gain = mean_gains[factor]
        figures[f"{factor}x"] = {
            "measured": float(np.mean([row["measured"][FACTORS.index(factor)] for row in rows])),
            "measured_gain": mean_gain,
            "mean_error": float(np.mean([cell["error"] for cell in cells])),
            "mean_absolute_error": float(np.mean([abs(cell["error"]) for cell in cells])),
            "covering": float(np.mean([cell["covers"] for cell in cells])),
            "mean_gain_error": float(np.mean([cell["gain_error"] for cell in cells])),
            "mean_absolute_gain_error": float(np.mean([abs(cell["gain_error"]) for cell in cells])),
            "gain_covering": float(np.mean([cell["gain_covers"] for cell in cells])),
            "gain_covering_the_mean": float(
                np.mean([cell["gain_low"] <= mean_gain <= cell["gain_high"] for cell in cells])
            ),
            "gain_width": float(np.mean([cell["gain_high"] - cell["gain_low"] for cell in cells])),
        }
    return figures
