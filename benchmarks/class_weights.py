"""What balanced class weights bring a linear probe: python -m benchmarks class_weights FEATURES

FEATURES are files that `efficientnet-transfer probe` or `choose` has left in its cache, such as those of train and val:
their images are pooled. Draws of them are stratified and seeded, as in `small_data`: N train, up to 1,000 of the others
test. scikit-learn fits; five folds of train choose the penalty by the accuracy per class that weights are meant to
raise, for both ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.small_data import draw
from transfer.errors import check_count
from transfer.files import expanded
from transfer.statistics import mean_interval

CS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse penalties
FOLDS = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_class_weights`."""
    parser.add_argument("features", type=expanded, nargs="+", metavar="FEATURES", help="files of features")
    parser.add_argument("--num_images", type=int, nargs="+", default=[300, 1000], metavar="N", help="of train")
    parser.add_argument("--draws", type=int, default=4, metavar="N", help="default: 4")


def benchmark_class_weights(features: Sequence[Path], num_images: Sequence[int], draws: int) -> dict[str, Any]:
    """Return, for each number of training images, both accuracies of each draw with and without weights, and the gains.

    Args:
        features: files with the images of one dataset.
        num_images: numbers of training images.
        draws: draws of each, with seeds from 0.
    """
    from transfer.probe.features import read_features

    check_count("draws", draws)
    parts = [read_features(path) for path in features]
    x = np.concatenate([part.features.float().numpy() for part in parts])
    labels = np.concatenate([part.labels.numpy() for part in parts])
    figures: dict[str, Any] = {"files": [path.name for path in features], "images": len(labels)}
    for number in num_images:
        rows = [try_draw(x, labels, number, seed) for seed in range(draws)]
        gains = {name: [row["balanced"][name] - row["plain"][name] for row in rows] for name in rows[0]["plain"]}
        mean = {name: asdict(mean_interval(values)) for name, values in gains.items()}
        figures[str(number)] = {"draws": rows, "mean_gain": mean}
    return figures


def try_draw(x: NDArray[np.float32], labels: NDArray[np.int64], number: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the test accuracies of a draw, without weights and with them."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    splits = draw(labels.astype(str), number, seed)
    train, test = splits == "train", splits == "test"
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    found = {}
    for name, weights in (("plain", None), ("balanced", "balanced")):
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight=weights, max_iter=1000))
        grid = {"logisticregression__C": CS}
        search = GridSearchCV(model, grid, scoring="balanced_accuracy", cv=folds).fit(x[train], labels[train])
        answers = search.predict(x[test])
        found[name] = {
            "mean_per_class": float(balanced_accuracy_score(labels[test], answers)),
            "top1": float(accuracy_score(labels[test], answers)),
        }
    print(number, seed, found, flush=True)
    return found
