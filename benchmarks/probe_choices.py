"""What a linear probe loses by cheaper features, and gains by views: python -m benchmarks probe_choices --data_root DIR

Cheaper: computed by the engine that `auto` takes instead of `torch`, and rounded to bfloat16. Each is fitted with all
penalties; val chooses one. Views: 1, 2, 4, ... of each training image, on all of them and on stratified draws of a few,
which are tested on the training images that were not drawn. Seeds pair the draws. Heads see the last map alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.features import compute
from transfer.files import expanded

if TYPE_CHECKING:
    import torch

    from transfer.probe.features import Features


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_probe_choices`."""
    parser.add_argument("--dataset", default="folder", help="default: folder")
    parser.add_argument("--data_root", type=expanded, metavar="DIR", help="where the images are")
    parser.add_argument("--backbone", default="lite0", help="default: lite0")
    parser.add_argument("--image_size", type=int, default=224, help="pixels; default: 224")
    parser.add_argument("--cache_dir", type=expanded, required=True, metavar="DIR", help="folder of the features")
    parser.add_argument("--views", type=int, default=1, help="largest number of views; default: 1")
    parser.add_argument("--few", type=int, nargs="*", default=[], metavar="N", help="also views of N training images")
    parser.add_argument("--seeds", type=int, default=5, help="draws of each N; default: 5")


def benchmark_probe_choices(
    cache_dir: Path,
    dataset: str = "folder",
    data_root: Path | None = None,
    backbone: str = "lite0",
    image_size: int = 224,
    views: int = 1,
    few: Sequence[int] = (),
    seeds: int = 5,
) -> dict[str, Any]:
    """Return the penalty that val chooses, its accuracy and the losses, for each choice.

    Args:
        cache_dir: folder of the features, which later calls read.
        dataset: name of the dataset.
        data_root: where its images are.
        backbone: a backbone with weights.
        image_size: side of the network's input.
        views: largest number of views.
        few: how many training images are drawn.
        seeds: draws of each number.
    """
    options = ["--dataset", dataset, "--backbone", backbone, "--image_size", str(image_size)]
    options += ["--feature_dtype", "float32"]
    options += ["--data.cache_dir", str(cache_dir)] + ([] if data_root is None else ["--data_root", str(data_root)])
    figures: dict[str, Any] = {"dataset": dataset, "backbone": backbone, "image_size": image_size}
    plain: dict[str, list[Features]] = {}
    for engine in ("torch", "auto"):
        found, dataset_read, (last, *_), record = compute(
            [*options, "--engine", engine, "--views", str(views if engine == "auto" else 1)]
        )
        found = {name: [view.leading(last) for view in each] for name, each in found.items()}
        figures[f"engine_{engine}"], num_classes = record, dataset_read.num_classes
        for dtype in ("float32", "bfloat16"):
            rounded = {name: [as_type(each, dtype) for each in found[name][:1]] for name in ("train", "val")}
            figures[f"{engine}, {dtype}"] = fit(rounded["train"], rounded["val"][0], num_classes)
        plain = found
    train, val = plain["train"], plain["val"][0]
    figures["images"] = {"train": len(train[0].labels), "val": len(val.labels)}
    counts = [2**power for power in range(views.bit_length()) if 2**power <= views]
    if views > 1:
        figures["views"] = {count: fit(train[:count], val, num_classes) for count in counts}
        for number in few:
            draws = [draw(train, val, num_classes, number, seed, counts) for seed in range(seeds)]
            figures[f"views of {number} images, top1 of the others by seed"] = {
                count: [each[count] for each in draws] for count in counts
            }
    return figures


def as_type(features: Features, dtype: str) -> Features:
    """Return the features as a file of this type holds them."""
    from transfer.probe.features import DTYPES, Features

    return Features(features.features.to(DTYPES[dtype]), features.labels)


def fit(views: Sequence[Features], val: Features, num_classes: int) -> dict[str, Any]:
    """Return the penalty that val chooses, its metrics on val, and the loss on train at every optimum."""
    path, best = fit_path(views, val, num_classes)
    losses = [row["train_loss"] for row in path]
    return {"penalty": best["penalty"], "val_top1": best["top1"], "val_loss": best["loss"], "train_losses": losses}


def fit_path(
    views: Sequence[Features], val: Features, num_classes: int, test: Features | None = None
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Return the metrics of all penalties, and those of the best on val, the largest of equals."""
    import torch

    from transfer.probe.linear import linear_metrics
    from transfer.probe.logistic import LogisticRegression
    from transfer.probe.penalties import PENALTIES

    features = torch.cat([view.features for view in views])
    labels = torch.cat([view.labels for view in views])
    path = []
    for found in LogisticRegression(features, labels, num_classes, len(views)).path(PENALTIES):
        row = {"penalty": found.penalty, "train_loss": found.loss, **linear_metrics(found, val)}
        path.append(row | ({} if test is None else {"test_top1": linear_metrics(found, test)["top1"]}))
    return path, max(path, key=lambda row: row["top1"])


def draw(
    train: Sequence[Features], val: Features, num_classes: int, number: int, seed: int, counts: Sequence[int]
) -> dict[int, float]:
    """Return, for each number of views, the accuracy of a fit to a few images on the others."""
    from transfer.probe.features import Features

    chosen = stratified(train[0].labels, number, seed)
    others = Features(train[0].features[~chosen], train[0].labels[~chosen])
    drawn = [Features(view.features[chosen], view.labels[chosen]) for view in train]
    return {count: fit_path(drawn[:count], val, num_classes, others)[1]["test_top1"] for count in counts}


def stratified(labels: torch.Tensor, number: int, seed: int) -> torch.Tensor:
    """Return a mask of about `number` images, at least one of each class, in the classes' shares."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels):
        members = (labels == label).nonzero()[:, 0]
        size = max(1, round(number * len(members) / len(labels)))
        mask[members[torch.randperm(len(members), generator=generator)[:size]]] = True
    return mask
