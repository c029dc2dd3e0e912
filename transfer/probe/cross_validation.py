"""Linear heads on frozen features by cross-validation: which one, and how good it is on images it was not fitted to.

Candidates are logistic and ridge regression, each along its path of penalties, its logits divided by a temperature (Guo
et al. 2017, arXiv 1706.04599). The lowest out-of-fold loss decides: accuracy is too coarse on few images, and without a
temperature the loss refuses the strong penalties that few images need, as they leave all probabilities near the prior.
Where all images are right, ever lower temperatures would win: as in Platt (1999), targets are smoothed, by 1 / (N + 2).
An image's own prediction is by the fit to the other folds, with the candidate that is best on the images of those. The
predictions that choose it come from fits that saw the image, so accuracies on a few dozen images are a little too high.
How many of the features the heads see is chosen before, by the out-of-fold loss of ridge regression, which has a closed
form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transfer.folds import Folds
from transfer.probe.features import Features
from transfer.probe.logistic import LinearFit, LogisticRegression
from transfer.probe.penalties import PENALTIES, one_thread_if_small, towards
from transfer.probe.ridge import RidgeRegression
from transfer.probe.temperatures import TEMPERATURES, image_losses, lowest_loss
from transfer.records import Interval
from transfer.resampling import accuracy_interval
from transfer.statistics import Metric

# A path ends after so many penalties, two decades, that brought no lower loss.
_PATIENCE = 4


@dataclass(frozen=True)
class Choice:
    """A linear head: `logistic` or `ridge` regression, its penalty, and what its logits are divided by.

    It sees the first `num_features` of the features.
    """

    head: str
    penalty: float
    temperature: float
    num_features: int


@dataclass(frozen=True)
class CrossValidation:
    """Cross-validated linear heads.

    Attributes:
        folds: the fold of each image in each repeat. Shape: (R, N)
        logits: out-of-fold logits, float32, on the CPU. Shape: (R, N, C)
        value: the metric of the out-of-fold predictions, in [0, 1]; the mean over the repeats.
        interval: its 95% interval over images, or over groups; see `accuracy_interval`.
        choice: the head for all images.
        fold_choices: what each fold was predicted with, for each repeat.
        losses: by head and penalty, the mean out-of-fold loss in nats at the best temperature, with smoothed targets.
        fit: the chosen head, fitted to all images; its logits are those of the chosen temperature.
    """

    folds: Folds
    logits: Tensor
    value: float
    interval: Interval
    choice: Choice
    fold_choices: tuple[tuple[Choice, ...], ...]
    losses: dict[str, dict[float, float]]
    fit: LinearFit

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The out-of-fold classes of each repeat. Shape: (R, N)"""
        return self.logits.argmax(2).numpy()

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The out-of-fold probabilities, averaged over the repeats. Shape: (N, C)"""
        return self.logits.softmax(2).mean(0).numpy()


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
    """
    with one_thread_if_small(sum(view.features.numel() for view in views)):
        data = _Data.of(torch.stack([view.features for view in views]), views[0].labels, num_classes, device)
        on_device = [torch.from_numpy(fold).to(device) for fold in folds]
        if widths:
            loss = partial(_loss_of_ridge, data, on_device, penalties)
            data = data.leading(widths[0] if len(widths) == 1 else min(widths, key=loss))
        spanned = data.spanned()
        repeats = [_Repeat.of(spanned, fold_of, heads, penalties) for fold_of in on_device]
        # A path may have ended earlier in another repeat.
        shared = [key for key in repeats[0].losses if all(key in repeat.losses for repeat in repeats)]
        losses = {key: torch.stack([repeat.losses[key].mean(1) for repeat in repeats]).mean(0) for key in shared}
        choice = _best(losses, data.num_features)
        *_, fit = HEADS[choice.head](data, towards(choice.penalty))
    logits = torch.stack([repeat.logits for repeat in repeats]).cpu()
    value, interval = accuracy_interval(data.labels.cpu().numpy(), logits.argmax(2).numpy(), metric, groups)
    return CrossValidation(
        folds=folds,
        logits=logits,
        value=value,
        interval=interval,
        choice=choice,
        fold_choices=tuple(repeat.choices for repeat in repeats),
        losses={name: {key[1]: float(loss.min()) for key, loss in losses.items() if key[0] == name} for name in heads},
        fit=fit.tempered(choice.temperature),
    )


def fit_head(
    views: Sequence[Features], num_classes: int, choice: Choice, device: torch.device | str = "cpu"
) -> LinearFit:
    """Return a head that has been chosen, fitted to images; its logits are those of the chosen temperature.

    Args:
        views: features and labels of the images, once for each view.
        num_classes: number of classes.
        choice: the head.
        device: the device that computes.
    """
    features = torch.stack([view.features[:, : choice.num_features] for view in views])
    with one_thread_if_small(features.numel()):
        data = _Data.of(features, views[0].labels, num_classes, device)
        *_, fit = HEADS[choice.head](data, towards(choice.penalty))
    return fit.tempered(choice.temperature)


def predict_from_some(
    features: Features,
    num_classes: int,
    fold_of: NDArray[np.int64],
    kept: NDArray[np.bool_],
    head: str,
    penalties: Sequence[float] = PENALTIES[::2],
    device: torch.device | str = "cpu",
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
    """
    with one_thread_if_small(features.features.numel()):
        data = _Data.of(features.features[None], features.labels, num_classes, device, torch.from_numpy(kept))
        found = _Repeat.of(data.spanned(), torch.from_numpy(fold_of).to(device), [head], penalties)
    return found.logits.argmax(1).cpu().numpy()


@dataclass(frozen=True)
class _Data:
    features: Tensor  # (V, N, F)
    labels: Tensor  # (N,)
    num_classes: int
    num_features: int  # F, before `spanned`
    kept: Tensor | None = None  # (N,): the images that heads are fitted to; None: all

    @classmethod
    def of(
        cls, features: Tensor, labels: Tensor, num_classes: int, device: torch.device | str, kept: Tensor | None = None
    ) -> _Data:
        kept = None if kept is None else kept.to(device)
        return cls(features.to(device), labels.to(device), num_classes, features.shape[2], kept)

    def others(self, fold: Tensor) -> _Data:
        """Return the images to fit to that are not in a fold, a mask (N,)."""
        images = ~fold if self.kept is None else self.kept & ~fold
        return replace(self, features=self.features[:, images], labels=self.labels[images], kept=None)

    def leading(self, width: int) -> _Data:
        """Return the same images with the first features alone."""
        return replace(self, features=self.features[..., :width], num_features=width)

    def spanned(self) -> _Data:
        """Return the same images along axes that span those to fit to, if these rows are fewer than features.

        No fit changes: a penalty keeps weights within the span.
        """
        rows = (self.features if self.kept is None else self.features[:, self.kept]).flatten(0, 1)
        if len(rows) >= rows.shape[1]:
            return self
        return replace(self, features=self.features.double() @ torch.linalg.qr(rows.double().T).Q)

    def logistic(self) -> LogisticRegression:
        return LogisticRegression(*self._rows())

    def ridge(self) -> RidgeRegression:
        return RidgeRegression(*self._rows())

    def _rows(self) -> tuple[Tensor, Tensor, int, int]:
        num_views = len(self.features)
        return self.features.flatten(0, 1), self.labels.repeat(num_views), self.num_classes, num_views


def _refitted(head: str, data: _Data, fold_of: Tensor, penalties: Sequence[float]) -> Iterator[Tensor]:
    """Yield the logits (N, C) of each penalty: of each fold, by the fit to the others."""
    masks = [fold_of == fold for fold in range(int(fold_of.max()) + 1)]
    for fits in zip(*(HEADS[head](data.others(mask), penalties) for mask in masks), strict=True):
        logits = torch.empty((len(fold_of), data.num_classes), device=fold_of.device)
        for fit, mask in zip(fits, masks, strict=True):
            logits[mask] = fit.logits(data.features[0, mask]).float()
        yield logits


def _out_of_fold(head: str, data: _Data, fold_of: Tensor, penalties: Sequence[float]) -> Iterator[Tensor]:
    if head != "ridge" or data.kept is not None:
        yield from _refitted(head, data, fold_of, penalties)
        return
    for scores in data.ridge().left_out(penalties, fold_of.repeat(len(data.features))):
        yield scores[: len(fold_of)].float()


HEADS: dict[str, Callable[[_Data, Sequence[float]], Iterator[LinearFit]]] = {
    "logistic": lambda data, penalties: data.logistic().path(penalties),
    "ridge": lambda data, penalties: data.ridge().path(penalties),
}


@dataclass(frozen=True)
class _Repeat:
    logits: Tensor  # (N, C)
    choices: tuple[Choice, ...]  # of each fold
    losses: dict[tuple[str, float], Tensor]  # (T, N), by head and penalty

    @classmethod
    def of(cls, data: _Data, fold_of: Tensor, heads: Sequence[str], penalties: Sequence[float]) -> _Repeat:
        """Predict each fold, of which fold_of (N,) says the images, by the fit to the others."""
        candidates: dict[tuple[str, float], Tensor] = {}
        losses: dict[tuple[str, float], Tensor] = {}
        for head in heads:
            best, worse = math.inf, 0
            for penalty, logits in zip(penalties, _out_of_fold(head, data, fold_of, penalties), strict=True):
                candidates[head, penalty] = logits
                losses[head, penalty] = image_losses(logits, data.labels)
                lowest = float(losses[head, penalty].mean(1).min())
                best, worse = (lowest, 0) if lowest < best else (best, worse + 1)
                if worse == _PATIENCE:
                    break
        found, choices = torch.empty_like(next(iter(candidates.values()))), []
        for fold in range(int(fold_of.max()) + 1):
            mine = fold_of == fold
            choice = _best({key: loss[:, ~mine].mean(1) for key, loss in losses.items()}, data.num_features)
            found[mine] = candidates[choice.head, choice.penalty][mine] / choice.temperature
            choices.append(choice)
        return cls(found, tuple(choices), losses)


def _loss_of_ridge(data: _Data, folds: Sequence[Tensor], penalties: Sequence[float], width: int) -> float:
    """Return the out-of-fold loss of ridge regression on the first features, at its best penalty and temperature."""
    spanned = data.leading(width).spanned()
    lowest = [
        min(lowest_loss(logits, data.labels) for logits in _out_of_fold("ridge", spanned, fold_of, penalties))
        for fold_of in folds
    ]
    return sum(lowest) / len(lowest)


def _best(losses: dict[tuple[str, float], Tensor], num_features: int) -> Choice:
    """Return the lowest of the candidates' mean losses, (T,) each."""
    head, penalty = min(losses, key=lambda key: float(losses[key].min()))
    return Choice(head, penalty, TEMPERATURES[int(losses[head, penalty].argmin())], num_features)
