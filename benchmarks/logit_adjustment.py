"""What logit adjustment brings a linear probe: python -m benchmarks logit_adjustment FEATURES

FEATURES are files that `efficientnet-transfer probe` or `choose` has left in its cache, such as those of train and val:
their images are pooled. Draws of them are stratified and seeded, as in `small_data`: N train, a fifth as many, from 10
to 300, are val, up to 1,000 of the others test. All ways get the same draws: `none` and `adjusted` are the product's
probe for the mean per class; `balanced` is scikit-learn's logistic regression with class weights instead, on train and
val, at the penalty and the temperature of `none`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.features import add_draw_options, draw_splits, pool
from transfer.errors import check_count
from transfer.statistics import mean_interval

if TYPE_CHECKING:
    from transfer.probe.features import Features
    from transfer.probe.logistic import LinearFit


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_logit_adjustment`."""
    add_draw_options(parser, [100, 300], 5)


def benchmark_logit_adjustment(
    features: Sequence[Path], last: int, num_images: Sequence[int], draws: int
) -> dict[str, Any]:
    """Return, for each number of training images, the test metrics of each draw and way, and the mean gains over none.

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
        gains = {
            way: {name: asdict(mean_interval([row[way][name] - row["none"][name] for row in rows])) for name in metrics}
            for way, metrics in rows[0].items()
            if way != "none"
        }
        figures[str(number)] = {"draws": rows, "mean_gain": gains}
    return figures


def try_draw(images: Features, last: int, number: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the test metrics of each way for one draw."""
    import torch

    from transfer.probe.features import Features
    from transfer.probe.linear import fit_probe, linear_metrics

    train, val, test = draw_splits(images, number, seed)
    num_classes = int(images.labels.max()) + 1
    widths = last, images.features.shape[1]
    none, adjusted = (
        fit_probe([train], val, num_classes, "mean_per_class", widths=widths, logit_adjustment=adjusts)
        for adjusts in (False, True)
    )
    # Ridge regression chooses the width, without adjustment: both have the same.
    train, val, test = (part.leading(none.num_features) for part in (train, val, test))
    both = Features(torch.cat([train.features, val.features]), torch.cat([train.labels, val.labels]))
    ways = {"none": none.fit, "balanced": fit_balanced(both, none.penalty, none.temperature), "adjusted": adjusted.fit}
    found = {name: linear_metrics(fit, test) for name, fit in ways.items()}
    print(number, seed, {name: f"{values['mean_per_class']:.3f}" for name, values in found.items()}, flush=True)
    return found


def fit_balanced(images: Features, penalty: float, temperature: float) -> LinearFit:
    """Return scikit-learn's logistic regression with balanced class weights, its logits divided by the temperature."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from transfer.probe.logistic import LinearFit

    model = LogisticRegression(C=1 / penalty, class_weight="balanced", tol=1e-5, max_iter=10_000).fit(
        images.features.double().numpy(), images.labels.numpy()
    )
    weight, bias = (torch.from_numpy(values) for values in (model.coef_, model.intercept_))
    if len(model.classes_) == 2:  # of which it has the difference alone
        weight, bias = (torch.cat([-values, values]) / 2 for values in (weight, bias))
    return LinearFit(penalty, weight, bias, float("nan"), 0).tempered(temperature)
