"""Linear probe: logistic regression on frozen features, whose penalty val decides or, of few images, train alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from transfer.folds import draw_folds, most_folds
from transfer.probe.cross_validation import ChosenHead, cross_validate, fit_head
from transfer.probe.features import Features
from transfer.probe.logistic import LinearFit, LogisticRegression
from transfer.probe.penalties import PENALTIES, one_thread_if_small, towards
from transfer.probe.ridge import RidgeRegression
from transfer.probe.temperatures import lowest_loss
from transfer.training.metrics import Predicted, build_metrics

# Up to so many training images cross-validation chooses: 67.5% of test images right against 63.4% where val had chosen
# at 30 clothing photos, 82.1% against 81.4% at 300, no difference at 1,000 (benchmarks/penalties_clothing_cpu.json).
MOST_CROSS_VALIDATED = 999
_FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """The result of a linear probe.

    Attributes:
        fit: the layer fitted to train and val with the chosen penalty.
        train_fit: the layer fitted to train alone with that penalty, of which the metrics and logits on val are.
        penalty: the one chosen.
        num_features: how many features, the first ones, the layers see.
        temperature: what the logits of both layers have been divided by.
        chosen_on: `val`: of the penalties with the best metric there, the largest (Kornblith et al. 2019); `train` or
            `trainval`: the one with the lowest loss in cross-validation.
        val_metrics: metrics on val of each penalty's fit to train, or of the chosen one's alone; see `linear_metrics`.
        passes: how often the features were read, for all penalties on train and the last fit.
        val_logits: logits on val of `train_fit`. Shape: (N, C)
        head: `logistic` or `ridge` regression.
        logit_adjustment: whether the layers' logits have been adjusted by the class shares of what they were fitted to.
    """

    fit: LinearFit
    train_fit: LinearFit
    penalty: float
    num_features: int
    temperature: float
    chosen_on: Literal["train", "val", "trainval"]
    val_metrics: dict[float, dict[str, float]]
    passes: int
    val_logits: Tensor
    head: str = "logistic"
    logit_adjustment: bool = False


def fit_probe(
    views: Sequence[Features],
    val: Features,
    num_classes: int,
    metric: str = "top1",
    device: torch.device | str = "cpu",
    groups: NDArray[np.str_] | None = None,
    widths: Sequence[int] = (),
    logit_adjustment: bool = False,
) -> Probe:
    """Choose a penalty and fit it to train and val: by cross-validation in train where it has few images, else on val.

    In the same place ridge regression chooses before how many of the features the layer sees, by the lowest loss.

    Args:
        views: features and labels of the training images, once for each view; an image's loss is the mean over them.
        val: features and labels of val.
        num_classes: number of classes.
        metric: what decides on val, `top1` or `mean_per_class`.
        device: the device that computes.
        groups: those of the training images, which no two folds share; see `draw_folds`. Shape: (N,)
        widths: numbers of leading features to compare; empty: all of them. The first of equals is taken.
        logit_adjustment: whether the layer is adjusted, by the class shares of the images that it is fitted to.
    """
    views = [Features(view.features.to(device), view.labels.to(device)) for view in views]
    val = Features(val.features.to(device), val.labels.to(device))
    labels = views[0].labels.cpu().numpy()
    folds = min(_FOLDS, most_folds(labels, groups))
    with one_thread_if_small(sum(view.features.numel() for view in views)):
        if len(labels) <= MOST_CROSS_VALIDATED and folds > 1 and len(np.unique(labels)) > 1:
            return _choose_on_train(views, val, num_classes, folds, groups, widths, logit_adjustment)
        if widths:
            loss = partial(_loss_of_ridge, views, val, num_classes)
            width = widths[0] if len(widths) == 1 else min(widths, key=loss)
            views, val = [view.leading(width) for view in views], val.leading(width)
        return _choose_on_val(views, val, num_classes, metric, logit_adjustment)


def fit_choice(
    views: Sequence[Features], val: Features, num_classes: int, choice: ChosenHead, device: torch.device | str = "cpu"
) -> Probe:
    """Fit a head that cross-validation on train and val has chosen to train and val, and to train alone.

    Args:
        views, val, num_classes, device: those of `fit_probe`.
        choice: the head.
    """
    val, *views = (
        Features(part.features[:, : choice.num_features].to(device), part.labels.to(device)) for part in (val, *views)
    )
    both = [
        Features(torch.cat([view.features, val.features]), torch.cat([view.labels, val.labels])) for view in views
    ]  # val's one view counts as often
    train_fit, fit = (fit_head(images, num_classes, choice, device) for images in (views, both))
    return Probe(
        fit=fit,
        train_fit=train_fit,
        penalty=choice.penalty,
        num_features=choice.num_features,
        temperature=choice.temperature,
        chosen_on="trainval",
        val_metrics={choice.penalty: linear_metrics(train_fit, val)},
        passes=train_fit.passes + fit.passes,
        val_logits=train_fit.logits(val.features).cpu(),
        head=choice.head,
        logit_adjustment=choice.logit_adjustment,
    )


def _choose_on_train(
    views: Sequence[Features],
    val: Features,
    num_classes: int,
    folds: int,
    groups: NDArray[np.str_] | None,
    widths: Sequence[int],
    logit_adjustment: bool,
) -> Probe:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "classes with ")  # a lonely image weighs little in the choice
        drawn = draw_folds(views[0].labels.cpu().numpy(), folds, groups=groups)
    device = val.features.device
    found = cross_validate(
        views,
        num_classes,
        drawn,
        groups=groups,
        heads=["logistic"],
        device=device,
        widths=widths,
        logit_adjustment=logit_adjustment,
    )
    choice = found.choice
    views, val = [view.leading(choice.num_features) for view in views], val.leading(choice.num_features)
    final = _fit_both(views, val, num_classes, choice)
    return Probe(
        fit=final,
        train_fit=found.fit,
        penalty=choice.penalty,
        num_features=choice.num_features,
        temperature=choice.temperature,
        chosen_on="train",
        val_metrics={choice.penalty: linear_metrics(found.fit, val)},
        passes=found.fit.passes + final.passes,
        val_logits=found.fit.logits(val.features).cpu(),
        logit_adjustment=logit_adjustment,
    )


def _loss_of_ridge(views: Sequence[Features], val: Features, num_classes: int, width: int) -> float:
    """Return the loss on val of ridge regression on the first features, at its best penalty and temperature."""
    features, labels = (torch.cat([getattr(view, name) for view in views]) for name in ("features", "labels"))
    path = RidgeRegression(features[:, :width], labels, num_classes, len(views)).path(PENALTIES[::2])
    return min(lowest_loss(fit.logits(val.features[:, :width]).float(), val.labels) for fit in path)


def _choose_on_val(
    views: Sequence[Features], val: Features, num_classes: int, metric: str, logit_adjustment: bool
) -> Probe:
    features, labels = (torch.cat([getattr(view, name) for view in views]) for name in ("features", "labels"))
    metrics, passes, width = {}, 0, val.features.shape[1]
    found: tuple[ChosenHead, LinearFit] | None = None
    for fit in LogisticRegression(features, labels, num_classes, len(views)).path(PENALTIES):
        choice = ChosenHead("logistic", fit.penalty, 1.0, width, logit_adjustment)
        fit = choice.finish(fit, labels)
        metrics[fit.penalty] = linear_metrics(fit, val)
        passes += fit.passes
        if found is None or metrics[fit.penalty][metric] > metrics[found[0].penalty][metric]:
            found = choice, fit
    assert found is not None
    choice, best = found
    final = _fit_both(views, val, num_classes, choice)
    return Probe(
        fit=final,
        train_fit=best,
        penalty=best.penalty,
        num_features=width,
        temperature=1.0,
        chosen_on="val",
        val_metrics=metrics,
        passes=passes + final.passes,
        val_logits=best.logits(val.features).cpu(),
        logit_adjustment=logit_adjustment,
    )


def _fit_both(views: Sequence[Features], val: Features, num_classes: int, choice: ChosenHead) -> LinearFit:
    """Return the layer fitted to train and val, of which each image has one view, that counts as often."""
    rows = [*views, *[val] * len(views)]
    features, labels = (torch.cat([getattr(row, name) for row in rows]) for name in ("features", "labels"))
    *_, fit = LogisticRegression(features, labels, num_classes, len(views)).path(towards(choice.penalty))
    return choice.finish(fit, labels)


def predict(fit: LinearFit, features: Features) -> Predicted:
    """Return the label and the probabilities of each image."""
    probabilities = fit.logits(features.features.to(fit.weight.device)).softmax(1)
    return Predicted(features.labels.cpu(), probabilities.float().cpu())


def linear_metrics(fit: LinearFit, features: Features) -> dict[str, float]:
    """Return `loss` in nats, and the metrics of `transfer.training.metrics.build_metrics` in [0, 1]."""
    logits = fit.logits(features.features.to(fit.weight.device))
    labels = features.labels.to(logits.device)
    metrics = build_metrics(len(fit.bias), multilabel=False).to(logits.device)
    values = {"loss": F.cross_entropy(logits, labels), **metrics(logits.softmax(1), labels)}
    return {name: float(value) for name, value in values.items()}
