"""Linear probe: the best of 45 L2 penalties on val, fitted again to train and val (Kornblith et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from transfer.probe.features import Features
from transfer.probe.logistic import LinearFit, LogisticRegression
from transfer.training.metrics import Predicted, build_metrics

# Kornblith, Shlens & Le 2019 (arXiv 1805.08974), as restated in SimCLR (arXiv 2002.05709) appendix B.8: 45 values from
# 1e-6 to 1e5, evenly spaced on a logarithmic scale. What they multiply is our reading, see `logistic`: half
# the squared norm of the weights beside the summed loss. From strong to weak, the order in which they are fitted.
PENALTIES: tuple[float, ...] = tuple(10 ** (5 - exponent / 4) for exponent in range(45))
# Up to so many features, threads gain little by sharing the short products of a fit, and lose much on busy cores.
_ONE_THREAD_LIMIT = 2**25


@dataclass(frozen=True)
class Probe:
    """The result of a linear probe.

    Attributes:
        fit: the layer fitted to train and val with the chosen penalty.
        penalty: the one with the best metric on val; the largest of equals.
        val_metrics: metrics on val of each penalty's fit to train; see `linear_metrics`.
        passes: how often the features were read, for all penalties and the last fit.
        val_logits: logits on val of the fit to train alone, with the chosen penalty. Shape: (N, C)
    """

    fit: LinearFit
    penalty: float
    val_metrics: dict[float, dict[str, float]]
    passes: int
    val_logits: Tensor


def fit_probe(
    views: Sequence[Features],
    val: Features,
    num_classes: int,
    metric: str = "top1",
    device: torch.device | str = "cpu",
) -> Probe:
    """Fit all penalties to train, choose one on val, and fit it to both.

    Args:
        views: features and labels of the training images, once for each view; an image's loss is the mean over them.
        val: features and labels of val.
        num_classes: number of classes.
        metric: what decides on val, `top1` or `mean_per_class`.
        device: the device that computes.
    """
    with one_thread_if_small(sum(view.features.numel() for view in views)):
        return _fit_probe(views, val, num_classes, metric, device)


@contextmanager
def one_thread_if_small(size: int) -> Iterator[None]:
    """Use one thread for computing on so many features, if they are few."""
    threads = torch.get_num_threads()
    if size <= _ONE_THREAD_LIMIT:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit_probe(
    views: Sequence[Features], val: Features, num_classes: int, metric: str, device: torch.device | str
) -> Probe:
    features = torch.cat([view.features for view in views]).to(device)
    labels = torch.cat([view.labels for view in views]).to(device)
    val_features, val_labels = val.features.to(device), val.labels.to(device)
    metrics, best, passes = {}, None, 0
    for fit in LogisticRegression(features, labels, num_classes, len(views)).path(PENALTIES):
        metrics[fit.penalty] = linear_metrics(fit, Features(val_features, val_labels))
        passes += fit.passes
        if best is None or metrics[fit.penalty][metric] > metrics[best.penalty][metric]:
            best = fit
    assert best is not None
    # The images of val have one view, which counts as often.
    features, labels = (
        torch.cat([of_train, *[of_val] * len(views)])
        for of_train, of_val in ((features, val_features), (labels, val_labels))
    )
    both = LogisticRegression(features, labels, num_classes, len(views))
    final = next(both.path([best.penalty], start=best))
    return Probe(final, best.penalty, metrics, passes + final.passes, best.logits(val_features).cpu())


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
