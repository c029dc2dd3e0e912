"""The metrics of a run, from torchmetrics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MultilabelAccuracy,
    MultilabelAveragePrecision,
    MultilabelExactMatch,
    MultilabelF1Score,
)
from torchmetrics.utilities.data import dim_zero_cat

from transfer.errors import some_of


class PerClassAccuracy(MulticlassAccuracy):
    """Accuracy of each class, (C,); NaN for one without an image, which torchmetrics counts as zero."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none", validate_args=False)

    def compute(self) -> Tensor:
        hits, _, _, misses = self._final_state()
        return hits / (hits + misses)


class MeanPerClassAccuracy(PerClassAccuracy):
    """Mean of the accuracies of the classes that have an image.

    Attributes:
        absent: the other classes, at the last computation.
    """

    absent: list[int]

    def compute(self) -> Tensor:
        accuracies = super().compute()
        self.absent = accuracies.isnan().nonzero().flatten().tolist()
        return accuracies.nanmean()


class MeanAveragePrecision(MultilabelAveragePrecision):
    """Mean of the average precisions of the labels that an image has; torchmetrics counts the others as zero.

    Attributes:
        absent: the other labels, at the last computation.
    """

    absent: list[int]

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none", validate_args=False)

    def compute(self) -> Tensor:  # type: ignore[override]  # the curve's type, which is not its own
        has_image = dim_zero_cat(self.target).any(0)
        self.absent = (~has_image).nonzero().flatten().tolist()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No positive samples")
            return super().compute()[has_image].mean().nan_to_num()


class ElevenPointPrecision(MeanAveragePrecision):
    """The mean over labels of PASCAL VOC 2007's average precision; labels that no image has are left out.

    It is the mean, over the recalls 0, 0.1, ..., 1, of the highest precision at that recall or a higher one (Everingham
    et al. 2010, section 4.2). Images of equal probability are retrieved together, so their order changes nothing.
    """

    def compute(self) -> Tensor:  # type: ignore[override]  # as above
        probabilities, truth = dim_zero_cat(self.preds), dim_zero_cat(self.target).bool()
        has_image = truth.any(0)
        self.absent = (~has_image).nonzero().flatten().tolist()
        found = [_eleven_point_precision(probabilities[:, i], truth[:, i]) for i in has_image.nonzero().flatten()]
        return torch.stack(found).mean() if found else torch.zeros((), device=truth.device)


def _eleven_point_precision(scores: Tensor, truth: Tensor) -> Tensor:
    """Return the 11-point average precision of a label that an image has, from scores and truth, both (N,)."""
    ordered, order = scores.sort(descending=True, stable=True)
    hits = truth[order].cumsum(0)
    last_of_equals = torch.cat([ordered[1:] != ordered[:-1], truth.new_ones(1)])
    hits, retrieved = hits[last_of_equals], last_of_equals.nonzero().flatten() + 1
    precisions = hits / retrieved
    reaches = 10 * hits >= hits[-1] * torch.arange(11, device=hits.device)[:, None]  # in integers, as 3 of 10 is 0.3
    return torch.where(reaches, precisions, 0).max(1).values.mean()


class CalibrationError(MulticlassCalibrationError):
    """Expected calibration error in 15 bins, the same for any order of the images; of a diverged network NaN."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, n_bins=15, validate_args=False)

    def compute(self) -> Tensor:
        confidences = dim_zero_cat(self.confidences).cpu().double()
        if confidences.isnan().any():
            return torch.tensor(torch.nan)
        gaps, order = (dim_zero_cat(self.accuracies).cpu() - confidences).sort()
        bins = (confidences[order] * 15).long().clamp(max=14)
        return (torch.zeros(15, dtype=gaps.dtype).scatter_add(0, bins, gaps).abs().sum() / len(gaps)).float()


class MeanLoss(Metric):
    """Mean of the losses of all images, the same for any order and any batches."""

    losses: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("losses", default=[], dist_reduce_fx="cat")

    def update(self, losses: Tensor) -> None:
        """Add the losses of a batch, (B,)."""
        self.losses.append(losses)

    def compute(self) -> Tensor:
        losses = dim_zero_cat(self.losses).tolist()
        return torch.tensor(math.fsum(losses) / len(losses))


class Predicted(NamedTuple):
    """Labels and probabilities of N images, on the CPU.

    Attributes:
        labels: int64 class indices (N,), or multi-hot (N, C).
        probabilities: float32 (N, C).
    """

    labels: Tensor
    probabilities: Tensor

    @property
    def classes(self) -> Tensor:
        """The most probable class of each image, (N,)."""
        return self.probabilities.argmax(1)


class Predictions(Metric):
    """Collects the label and the probabilities of every image: rank after rank, each in its own order."""

    # Flat floats, exact up to 2^24 classes: from a rank without images torchmetrics gathers an empty float vector.
    labels: list[Tensor]
    probabilities: list[Tensor]

    def __init__(self, num_classes: int, multilabel: bool, **options: Any) -> None:
        super().__init__(**options)
        self.label_shape, self.num_classes = (-1, num_classes) if multilabel else (-1,), num_classes
        self.add_state("labels", default=[], dist_reduce_fx="cat")
        self.add_state("probabilities", default=[], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities (B, C) and labels (B,) or (B, C)."""
        self.labels.append(labels.float().flatten())
        self.probabilities.append(probabilities.float().flatten())

    def compute(self) -> Predicted:
        """Return what was collected."""
        labels, probabilities = dim_zero_cat(self.labels).cpu(), dim_zero_cat(self.probabilities).cpu()
        return Predicted(labels.long().reshape(self.label_shape), probabilities.reshape(-1, self.num_classes))


def fit_threshold(predicted: Predicted) -> float:
    """Return the probability from which on a label is given: the one with the highest micro-F1 on these images.

    It lies in the middle between two neighbouring probabilities, and is one for all labels, as rare ones have too few
    images for their own. Of equals the one nearest to one half is taken.
    """
    order = predicted.probabilities.flatten().double().sort(descending=True, stable=True)
    truth = predicted.labels.flatten()[order.indices]
    hits = truth.cumsum(0)
    given = torch.arange(1, len(truth) + 1)
    f1 = 2 * hits / (given + hits[-1])
    following = torch.cat([order.values[1:], torch.zeros(1, dtype=torch.float64)])
    is_cut = order.values > following  # equal probabilities are given or withheld together
    candidates = ((order.values + following) / 2)[is_cut & (f1 == f1[is_cut].max())]
    return float(candidates[(candidates - 0.5).abs().argmin()])


def build_metrics(num_classes: int, multilabel: bool) -> MetricCollection:
    """Return the metrics of a run, each in [0, 1]. They take probabilities (N, C), not logits, and targets.

    For one label per image: `top1`, `top5` (from six classes on), `mean_per_class` (accuracy averaged over classes)
    and `ece` (expected calibration error, 15 bins). For several: `map` (mean average precision), `map_11` (that of
    PASCAL VOC 2007, interpolated at 11 recalls), `f1` (micro, threshold one half) and `exact_match`.

    Args:
        num_classes: C.
        multilabel: whether an image may have several labels; targets are then multi-hot (N, C), else indices (N,).
    """
    metrics: dict[str, Metric | MetricCollection]
    if multilabel:
        metrics = {
            "map": MeanAveragePrecision(num_classes),
            "map_11": ElevenPointPrecision(num_classes),
            "f1": MultilabelF1Score(num_classes, average="micro", validate_args=False),
            "exact_match": MultilabelExactMatch(num_classes, validate_args=False),
        }
    else:
        # Arguments are not validated: it would read the tensors back from the GPU at every batch.
        metrics = {
            "top1": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
            "mean_per_class": MeanPerClassAccuracy(num_classes),
            "ece": CalibrationError(num_classes),
        }
        if num_classes > 5:
            metrics["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro", validate_args=False)
    # Groups are guessed from the first batch: top5 would be top1 for good where all its images are right.
    return MetricCollection(metrics, compute_groups=False)


def build_per_class_accuracy(num_classes: int, multilabel: bool) -> Metric:
    """Return the accuracy of each class, (C,): on its images (NaN without one), or of its yes-or-no answers."""
    if multilabel:
        return MultilabelAccuracy(num_classes, average="none", validate_args=False)
    return PerClassAccuracy(num_classes)


def describe_absent(metrics: MetricCollection, class_names: Sequence[str] | None) -> str | None:
    """Return which classes the metrics left out of a mean, as no image has them, or None; after they were computed.

    Args:
        metrics: see `build_metrics`.
        class_names: names of the classes; None calls them by their indices.
    """
    means = MeanPerClassAccuracy, MeanAveragePrecision
    name, mean = next((name, metric) for name, metric in metrics.items(keep_base=True) if isinstance(metric, means))
    absent = mean.absent
    if not absent:
        return None
    return name_absent([str(index) if class_names is None else class_names[index] for index in absent], name)


def name_absent(class_names: Sequence[str], metric: str) -> str:
    """Return which classes a mean over classes left out.

    Args:
        class_names: the classes without an image.
        metric: name of the mean.
    """
    return f"no image of {some_of(class_names, 10)}: {metric} is the mean over the other classes"


def metric_names(num_classes: int, multilabel: bool) -> tuple[str, ...]:
    """Return the names of the metrics of `build_metrics`."""
    return tuple(str(name) for name in build_metrics(num_classes, multilabel))
