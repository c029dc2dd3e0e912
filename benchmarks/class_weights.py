"""What balanced class weights bring a linear probe: python -m benchmarks class_weights FEATURES

FEATURES are files that `efficientnet-transfer probe` or `choose` has left in its cache, such as those of train and val:
their images are pooled. Draws of them are stratified and seeded, as in `small_data`: N train, a fifth as many, from 10
to 300, are val, up to 1,000 of the others test. All ways get the same draws: `none` and `balanced` are the product's
probe; `weighted_choice` has balanced fits, too, but penalty and temperature by a loss that weights the classes alike;
`adjusted` is `none` less the logarithm of how frequent each class is (Menon et al. 2021, arXiv 2007.07314).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.features import draw_splits, pool
from transfer.errors import check_count
from transfer.files import expanded
from transfer.statistics import mean_interval

if TYPE_CHECKING:
    from torch import Tensor

    from transfer.probe.features import Features


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_class_weights`."""
    parser.add_argument("features", type=expanded, nargs="+", metavar="FEATURES", help="files of features")
    parser.add_argument("--num_images", type=int, nargs="+", default=[100, 300], metavar="N", help="of train")
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="default: 5")


def benchmark_class_weights(features: Sequence[Path], num_images: Sequence[int], draws: int) -> dict[str, Any]:
    """Return, for each number of training images, the test metrics of each draw and way, and the mean gains over none.

    Args:
        features: files with the images of one dataset.
        num_images: numbers of training images.
        draws: draws of each, with seeds from 0.
    """
    check_count("draws", draws)
    images = pool(features)
    figures: dict[str, Any] = {"files": [path.name for path in features], "images": len(images.labels)}
    for number in num_images:
        rows = [try_draw(images, number, seed) for seed in range(draws)]
        gains = {
            way: {name: asdict(mean_interval([row[way][name] - row["none"][name] for row in rows])) for name in metrics}
            for way, metrics in rows[0].items()
            if way != "none"
        }
        figures[str(number)] = {"draws": rows, "mean_gain": gains}
    return figures


def try_draw(images: Features, number: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the test metrics of each way for one draw."""
    import torch

    from transfer.probe import cross_validation
    from transfer.probe.class_weights import sample_weight
    from transfer.probe.linear import fit_probe, linear_metrics
    from transfer.probe.temperatures import image_losses

    def weighted_losses(logits: Tensor, labels: Tensor) -> Tensor:
        weights = sample_weight(labels, "balanced")
        assert weights is not None
        return image_losses(logits, labels) * weights

    train, val, test = draw_splits(images, number, seed)
    num_classes = int(images.labels.max()) + 1
    none = fit_probe([train], val, num_classes).fit
    balanced = fit_probe([train], val, num_classes, class_weights="balanced").fit
    with patch.object(cross_validation, "image_losses", weighted_losses):
        weighted_choice = fit_probe([train], val, num_classes, class_weights="balanced").fit
    counts = torch.bincount(torch.cat([train.labels, val.labels]), minlength=num_classes)
    adjusted = replace(none, bias=none.bias - counts.double().clamp(min=0.5).log())
    ways = {"none": none, "balanced": balanced, "weighted_choice": weighted_choice, "adjusted": adjusted}
    found = {name: linear_metrics(fit, test) for name, fit in ways.items()}
    print(number, seed, {name: f"{values['mean_per_class']:.3f}" for name, values in found.items()}, flush=True)
    return found
