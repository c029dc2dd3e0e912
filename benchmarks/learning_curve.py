"""Whether extrapolated learning curves hold: python -m benchmarks learning_curve --data_root DIR --cache_dir DIR

Of each draw, a curve is measured on --images photos and extrapolated to two and four times as many, as `choose
--learning_curve` does. The truth: the head that cross-validation chooses on these photos, fitted with a penalty of its
own to them and to them and others, two and four times as many, tested on all photos beyond four times as many. Each
draw leaves its predictions in --out_dir: called again, with other --seeds, too, the benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.features import compute_photos
from transfer.files import expanded, written_whole

if TYPE_CHECKING:
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
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)), help="of the draws; default: 0 to 19")
    parser.add_argument("--out_dir", type=expanded, required=True, metavar="DIR", help="folder of the predictions")


def benchmark_learning_curve(
    data_root: Path,
    cache_dir: Path,
    out_dir: Path,
    backbone: str = "lite0",
    image_size: int = 128,
    images: Sequence[int] = (300,),
    seeds: Sequence[int] = tuple(range(20)),
) -> dict[str, Any]:
    """Return, for each number of photos and factor, errors of the extrapolation and how many intervals cover.

    Args:
        data_root: folder of photos.
        cache_dir: folder of the features, which later calls read.
        out_dir: folder of the predictions of each draw.
        backbone: a backbone with weights.
        image_size: side of the network's input.
        images: numbers of photos from which curves are extrapolated.
        seeds: of the draws of each number.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    features, dataset, widths = compute_photos(data_root, cache_dir, backbone, image_size)
    figures: dict[str, Any] = {"photos": len(features.labels), "backbone": backbone, "image_size": image_size}
    for number in images:
        rows = []
        for seed in seeds:
            path = out_dir / f"{backbone}-{image_size}-{number}-{seed}.npz"
            if not path.exists():
                save_draw(features, dataset.num_classes, widths, number, seed, path)
            rows.append({"seed": seed, **extrapolate_draw(path)})
            print(rows[-1], flush=True)
        figures[f"{number} photos"] = summarise(rows) | {"draws": rows}
    return figures


def save_draw(features: Features, num_classes: int, widths: Sequence[int], images: int, seed: int, path: Path) -> None:
    """Measure the curve of a draw and the truth, and write both to a file."""
    from transfer.folds import draw_folds
    from transfer.probe.cross_validation import cross_validate
    from transfer.probe.learning_curve import draw_order, measure_curve, penalties_around

    labels = features.labels.numpy()
    order = draw_order(labels, None, seed)
    first, *_ = drawn = [order < factor * images / len(labels) for factor in FACTORS]
    folds = draw_folds(labels[first], FOLDS, 1, seed)
    choice = cross_validate([take(features, first)], num_classes, folds, widths=widths).choice
    features = features.leading(choice.num_features)
    tested, truth = ~drawn[-1], []
    for mine in drawn:
        folds, penalties = draw_folds(labels[mine], FOLDS, 1, seed), penalties_around(choice.penalty)
        fit = cross_validate([take(features, mine)], num_classes, folds, heads=[choice.head], penalties=penalties).fit
        truth.append(float(np.mean(fit.logits(features.features[tested]).argmax(1).numpy() == labels[tested])))
    found = measure_curve(take(features, first), num_classes, choice, FOLDS, seed=seed)
    with written_whole(path) as file:
        np.savez_compressed(file, sizes=found.sizes, right=found.right, labels=found.labels, truth=np.array(truth))


def extrapolate_draw(path: Path) -> dict[str, Any]:
    """Return, for each factor, the extrapolated and the measured accuracy, and what they gain over the drawn photos."""
    from transfer.probe.learning_curve import Measured, extrapolate

    with np.load(path, allow_pickle=False) as saved:
        curve = Measured(saved["sizes"], saved["right"], saved["labels"], None, "top1")
        truth = saved["truth"].tolist()
    found, now = extrapolate(curve), len(curve.labels)
    row: dict[str, Any] = {
        "sizes": curve.sizes.tolist(),
        "accuracies": curve.accuracy(curve.of_classes).mean(0).tolist(),
    }
    row["measured"] = truth
    if isinstance(found, str):
        return row | {"refusal": found}
    for factor, accuracy in zip(FACTORS, truth, strict=True):
        value, interval = found.accuracy(factor * now)
        gain, bounds = found.gain(now, factor * now)
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
