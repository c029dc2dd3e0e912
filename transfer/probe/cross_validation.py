"""Linear heads on frozen features by cross-validation: which one, and how good it is on images it was not fitted to.

Candidates are logistic and ridge regression, each along its path of penalties, its logits divided by a temperature (Guo
et al. 2017, arXiv 1706.04599). The lowest out-of-fold loss decides: accuracy is too coarse on few images, and without a
temperature the loss refuses the strong penalties that few images need, as they leave all probabilities near the prior.
Where all images are right, ever lower temperatures would win: as in Platt (1999), targets are smoothed, by 1 / (N + 2).
An image's own prediction is by the fit to the other folds, with the candidate that is best on the images of those. The
predictions that choose it come from fits that saw the image, so accuracies on a few dozen images are a little too high.
How many of the features the heads see is chosen before, by the out-of-fold loss of ridge regression, which has a closed
form.

Heads are fitted and chosen by the images as they are, of which the loss is a proper score. Logit adjustment comes last,
in each fold by the class shares of the images that its head was fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transfer.folds import Folds
from transfer.probe.features import Features
from transfer.probe.head_fits import HEADS, LabelledFeatures, out_of_fold_logits
from transfer.probe.logistic import LinearFit
from transfer.probe.logit_adjustment import log_shares
from transfer.probe.penalties import PENALTIES, one_thread_if_small, towards
from transfer.probe.temperatures import TEMPERATURES, image_losses, lowest_loss
from transfer.records import Interval
from transfer.resampling import accuracy_interval
from transfer.statistics import Metric

# A path ends after so many penalties, two decades, that brought no lower loss.
_PATIENCE = 4


@dataclass(frozen=True)
class ChosenHead:
    """A linear head: `logistic` or `ridge` regression, its penalty, and what its logits are divided by.

    It sees the first `num_features` of the features. With `logit_adjustment` its logits are then adjusted by the class
    shares of the images that it was fitted to.
    """

    head: str
    penalty: float
    temperature: float
    num_features: int
    logit_adjustment: bool = False

    def finish(self, fit: LinearFit, labels: Tensor) -> LinearFit:
        """Return the layer that a fit to images of these labels (N,) becomes."""
        tempered = fit.tempered(self.temperature)
        return tempered.adjusted(log_shares(labels, len(fit.bias))) if self.logit_adjustment else tempered


@dataclass(frozen=True)
class CrossValidation:
    """Cross-validated linear heads.

    Attributes:
        folds: the fold of each image in each repeat. Shape: (R, N)
        logits: out-of-fold logits, float32, on the CPU. Shape: (R, N, C)
        probabilities: out-of-fold probabilities without logit adjustment, averaged over the repeats. Shape: (N, C)
        value: the metric of the out-of-fold predictions, in [0, 1]; the mean over the repeats.
        interval: its 95% interval over images, or over groups; see `accuracy_interval`.
        choice: the head for all images.
        fold_choices: what each fold was predicted with, for each repeat.
        losses: by head and penalty, the mean out-of-fold loss in nats at the best temperature, with smoothed targets.
        fit: the chosen head, fitted to all images.
    """

    folds: Folds
    logits: Tensor
    probabilities: NDArray[np.float32]
    value: float
    interval: Interval
    choice: ChosenHead
    fold_choices: tuple[tuple[ChosenHead, ...], ...]
    losses: dict[str, dict[float, float]]
    fit: LinearFit

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The out-of-fold classes of each repeat. Shape: (R, N)"""
        return self.logits.argmax(2).numpy()


def cross_validate(
    views: Sequence[Features],
    num_classes: int,
    folds: Folds,
    metric: Metric = "top1",
    groups: NDArray[np.generic] | None = None,
    heads: Sequence[str] = ("logistic", "ridge"),
    penalties: Sequence[float] = PENALTIES[::2],
    device: torch.device | str = "cpu",
    widths: Sequence[int] = (),
    logit_adjustment: bool = False,
) -> CrossValidation:
    """Return the best head's out-of-fold predictions, their accuracy, and the head fitted to all images.

    Args:
        views: features and labels of the images, once for each view. An image's loss is the mean over them; only its
            first view is predicted.
        num_classes: number of classes.
        folds: the fold of each image, for each repeat; see `draw_folds`. Shape: (R, N)
        metric: what is measured, `top1` or `mean_per_class`.
        groups: those of `draw_folds`, for the interval. Shape: (N,)
        heads: what is compared, names of `HEADS`; the first of equals is taken.
        penalties: from strong to weak.
        device: the device that computes.
        widths: numbers of leading features to compare; empty: all of them. The first of equals is taken.
        logit_adjustment: whether heads are adjusted by the class shares of what they were fitted to.
    """
    with one_thread_if_small(sum(view.features.numel() for view in views)):
        stacked = torch.stack([view.features for view in views])
        data = LabelledFeatures.of(stacked, views[0].labels, num_classes, device)
        on_device = [torch.from_numpy(fold).to(device) for fold in folds]
        if widths:
            loss = partial(_loss_of_ridge, data, on_device, penalties)
            data = data.leading(widths[0] if len(widths) == 1 else min(widths, key=loss))
        spanned = data.spanned()
        repeats = [_Repeat.of(spanned, fold_of, heads, penalties, logit_adjustment) for fold_of in on_device]
        # A path may have ended earlier in another repeat.
        shared = [key for key in repeats[0].losses if all(key in repeat.losses for repeat in repeats)]
        losses = {key: torch.stack([repeat.losses[key].mean(1) for repeat in repeats]).mean(0) for key in shared}
        choice = _best(losses, data.num_features, logit_adjustment)
        fit = _fit(data, choice)
    logits = torch.stack([repeat.logits for repeat in repeats]).cpu()
    value, interval = accuracy_interval(data.labels.cpu().numpy(), logits.argmax(2).numpy(), metric, groups)
    return CrossValidation(
        folds=folds,
        logits=logits,
        probabilities=torch.stack([repeat.probabilities for repeat in repeats]).mean(0).cpu().numpy(),
        value=value,
        interval=interval,
        choice=choice,
        fold_choices=tuple(repeat.choices for repeat in repeats),
        losses={name: {key[1]: float(loss.min()) for key, loss in losses.items() if key[0] == name} for name in heads},
        fit=fit,
    )


def fit_head(
    views: Sequence[Features], num_classes: int, choice: ChosenHead, device: torch.device | str = "cpu"
) -> LinearFit:
    """Return a head that has been chosen, fitted to images.

    Args:
        views: features and labels of the images, once for each view.
        num_classes: number of classes.
        choice: the head.
        device: the device that computes.
    """
    features = torch.stack([view.features[:, : choice.num_features] for view in views])
    with one_thread_if_small(features.numel()):
        return _fit(LabelledFeatures.of(features, views[0].labels, num_classes, device), choice)


def _fit(data: LabelledFeatures, choice: ChosenHead) -> LinearFit:
    *_, fit = HEADS[choice.head](data, towards(choice.penalty))
    return choice.finish(fit, data.labels)


def predict_from_some(
    features: Features,
    num_classes: int,
    fold_of: NDArray[np.int64],
    kept: NDArray[np.bool_],
    head: str,
    penalties: Sequence[float] = PENALTIES[::2],
    device: torch.device | str = "cpu",
    logit_adjustment: bool = False,
) -> NDArray[np.int64]:
    """Return the class of each image by a head that was fitted to only some images of the other folds. Shape: (N,)

    Penalty and temperature of a fold are those that are best on all images of the other folds, as in `cross_validate`.

    Args:
        features: of all images, and their labels.
        num_classes: number of classes.
        fold_of: the fold of each image. Shape: (N,)
        kept: the images to fit to; of two classes at least in each fold's others. Shape: (N,)
        head: a name of `HEADS`.
        penalties: from strong to weak.
        device: the device that computes.
        logit_adjustment: that of `cross_validate`.
    """
    with one_thread_if_small(features.features.numel()):
        every = features.features[None]
        data = LabelledFeatures.of(every, features.labels, num_classes, device, torch.from_numpy(kept))
        on_device = torch.from_numpy(fold_of).to(device)
        found = _Repeat.of(data.spanned(), on_device, [head], penalties, logit_adjustment)
    return found.logits.argmax(1).cpu().numpy()


@dataclass(frozen=True)
class _Repeat:
    logits: Tensor  # (N, C)
    probabilities: Tensor  # (N, C), without logit adjustment
    choices: tuple[ChosenHead, ...]  # of each fold
    losses: dict[tuple[str, float], Tensor]  # (T, N), by head and penalty

    @classmethod
    def of(
        cls,
        data: LabelledFeatures,
        fold_of: Tensor,
        heads: Sequence[str],
        penalties: Sequence[float],
        logit_adjustment: bool,
    ) -> _Repeat:
        """Predict each fold, of which fold_of (N,) says the images, by the fit to the others."""
        candidates: dict[tuple[str, float], Tensor] = {}
        losses: dict[tuple[str, float], Tensor] = {}
        for head in heads:
            best, worse = math.inf, 0
            for penalty, logits in zip(penalties, out_of_fold_logits(head, data, fold_of, penalties), strict=True):
                candidates[head, penalty] = logits
                losses[head, penalty] = image_losses(logits, data.labels)
                lowest = float(losses[head, penalty].mean(1).min())
                best, worse = (lowest, 0) if lowest < best else (best, worse + 1)
                if worse == _PATIENCE:
                    break
        logits, choices = torch.empty_like(next(iter(candidates.values()))), []
        probabilities = torch.empty_like(logits)
        for fold in range(int(fold_of.max()) + 1):
            mine = fold_of == fold
            others = {key: loss[:, ~mine].mean(1) for key, loss in losses.items()}
            choice = _best(others, data.num_features, logit_adjustment)
            tempered = candidates[choice.head, choice.penalty][mine] / choice.temperature
            probabilities[mine] = tempered.softmax(1)
            logits[mine] = tempered - data.log_shares(mine).float() if logit_adjustment else tempered
            choices.append(choice)
        return cls(logits, probabilities, tuple(choices), losses)


def _loss_of_ridge(data: LabelledFeatures, folds: Sequence[Tensor], penalties: Sequence[float], width: int) -> float:
    """Return the out-of-fold loss of ridge regression on the first features, at its best penalty and temperature."""
    spanned = data.leading(width).spanned()
    lowest = [
        min(lowest_loss(logits, data.labels) for logits in out_of_fold_logits("ridge", spanned, fold_of, penalties))
        for fold_of in folds
    ]
    return sum(lowest) / len(lowest)


def _best(losses: dict[tuple[str, float], Tensor], num_features: int, logit_adjustment: bool) -> ChosenHead:
    """Return the lowest of the candidates' mean losses, (T,) each."""
    head, penalty = min(losses, key=lambda key: float(losses[key].min()))
    temperature = TEMPERATURES[int(losses[head, penalty].argmin())]
    return ChosenHead(head, penalty, temperature, num_features, logit_adjustment)
