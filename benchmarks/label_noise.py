"""How well out-of-fold predictions find wrong labels: python -m benchmarks label_noise --data_root DIR --cache_dir DIR

A share of the labels is changed to another class, each other one as likely; `choose`'s cross-validation of a linear
head on frozen features predicts all images, and its suspects are compared with the changed ones. The data's own wrong
labels count as false: --sheets DIR leaves suspects.csv and .png of the unchanged suspects of each draw to look at.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.features import compute_photos
from transfer.errors import check_count
from transfer.files import expanded

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from transfer.probe.label_suspects import Suspect

MOST_SHOWN = 40


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_label_noise`."""
    parser.add_argument("--data_root", type=expanded, required=True, metavar="DIR", help="folder of photos")
    parser.add_argument("--cache_dir", type=expanded, required=True, metavar="DIR", help="folder of the features")
    parser.add_argument("--backbone", default="lite0", help="default: lite0")
    parser.add_argument("--image_size", type=int, default=224, help="pixels; default: 224")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are changed; default: 0.05")
    parser.add_argument("--draws", type=int, default=3, help="default: 3")
    parser.add_argument("--sheets", type=expanded, metavar="DIR", help="write the unchanged suspects there")


def benchmark_label_noise(
    data_root: Path,
    cache_dir: Path,
    backbone: str = "lite0",
    image_size: int = 224,
    share: float = 0.05,
    draws: int = 3,
    sheets: Path | None = None,
) -> dict[str, Any]:
    """Return precision and recall of the suspects, and of as many of them as labels are changed.

    Args:
        data_root: folder of photos.
        cache_dir: folder of the features, which later calls read.
        backbone: a backbone with weights.
        image_size: side of the network's input.
        share: of the labels that are changed.
        draws: with seeds from 0.
        sheets: folder of the unchanged suspects.
    """
    from transfer.folds import draw_folds
    from transfer.probe.cross_validation import cross_validate
    from transfer.probe.features import Features
    from transfer.probe.label_suspects import rank_suspects

    check_count("draws", draws)
    features, dataset, widths = compute_photos(data_root, cache_dir, backbone, image_size)
    given = features.labels.numpy()
    figures: dict[str, Any] = {"images": len(given), "backbone": backbone, "image_size": image_size, "share": share}
    figures["draws"] = []
    for seed in range(draws):
        labels = flip(given, dataset.num_classes, share, seed)
        noisy = Features(features.features, features.labels.new_tensor(labels))
        found = cross_validate([noisy], dataset.num_classes, draw_folds(labels, 5, 1, seed), widths=widths)
        is_label = np.eye(dataset.num_classes, dtype=bool)[labels]
        suspects = rank_suspects(found.probabilities, is_label)
        changed = labels != given
        figures["draws"].append(
            {"seed": seed, "accuracy": found.value, **score(suspects, changed, given)}
            | compare(labels, found.probabilities, changed)
        )
        if sheets is not None:
            save_sheet([one for one in suspects if not changed[one.image]], dataset, sheets / str(seed))
    return figures


def flip(labels: NDArray[np.int64], num_classes: int, share: float, seed: int) -> NDArray[np.int64]:
    """Return labels of which a share, rounded, is changed to another class."""
    rng, changed = np.random.default_rng(seed), labels.copy()
    chosen = rng.choice(len(labels), round(share * len(labels)), replace=False)
    changed[chosen] = (labels[chosen] + rng.integers(1, num_classes, len(chosen))) % num_classes
    return changed


def score(suspects: list[Suspect], changed: NDArray[np.bool_], given: NDArray[np.int64]) -> dict[str, Any]:
    """Return precision and recall, and how often the class before the change is the suggested one."""
    images = np.array([one.image for one in suspects], int)
    right = changed[images]
    top = right[: changed.sum()]
    restored = [one.suggested == given[one.image] for one in suspects if changed[one.image]]
    return {
        "changed": int(changed.sum()),
        "suspects": len(images),
        "precision": float(right.mean()),
        "recall": float(right.sum() / changed.sum()),
        "precision_of_as_many_as_changed": float(top.mean()),
        "recall_of_as_many_as_changed": float(top.sum() / changed.sum()),
        "suggests_the_class_before": float(np.mean(restored)),
    }


def compare(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], changed: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return precision and recall of the library cleanlab's filters on the same probabilities, if it is installed."""
    if find_spec("cleanlab") is None:
        return {}
    from cleanlab.filter import find_label_issues

    found: dict[str, Any] = {}
    for name in ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "low_normalized_margin"):
        issues = find_label_issues(labels, probabilities, filter_by=name, n_jobs=1)
        right = int((issues & changed).sum())
        found[f"cleanlab_{name}"] = {
            "suspects": int(issues.sum()),
            "precision": right / max(int(issues.sum()), 1),
            "recall": right / int(changed.sum()),
        }
    return found


def save_sheet(suspects: list[Suspect], dataset: Dataset, folder: Path) -> None:
    """Write the table of the first suspects and a picture of them."""
    from transfer.commands.choose.images import SPLITS
    from transfer.commands.suspect_files import name_suspects, write_suspects
    from transfer.images.decode import Pixels, decode_image

    shown = suspects[:MOST_SHOWN]
    splits = [dataset.splits[name] for name in SPLITS if name in dataset.splits]
    positions = [(split, position) for split in splits for position in range(len(split))]
    names = [name for split in splits for name in split.image_names()]

    def pixels(row: int) -> Pixels:
        split, position = positions[shown[row].image]
        return decode_image(split.encoded(position), split.decoding)

    folder.mkdir(parents=True, exist_ok=True)
    write_suspects(name_suspects(shown, dataset.class_names, names.__getitem__), pixels, folder)
