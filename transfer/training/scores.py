"""What is measured on a split while a network runs over it."""

from __future__ import annotations

import math

from torch import Tensor, nn

from transfer.lightning import pl
from transfer.training.losses import build_loss
from transfer.training.metrics import (
    MeanLoss,
    Predicted,
    Predictions,
    build_metrics,
    build_per_class_accuracy,
    describe_absent,
)


def to_probabilities(logits: Tensor, multilabel: bool) -> Tensor:
    """Return the probabilities of logits, (N, C)."""
    return logits.sigmoid() if multilabel else logits.softmax(1)


class Scores(nn.Module):
    """Loss, metrics, accuracy of each class and predictions, the same for any batches and any number of processes.

    Args:
        stage: `val` or `test`.
        num_classes: C.
        multilabel: whether an image may have several labels.
        loss: name of the loss; it knows no label smoothing, class weights or logit adjustment, to be comparable between
            runs.
        keep_predictions: whether to keep the probabilities of all images.
    """

    def __init__(self, stage: str, num_classes: int, multilabel: bool, loss: str, keep_predictions: bool) -> None:
        super().__init__()
        self.stage, self.num_classes, self.multilabel = stage, num_classes, multilabel
        self.image_losses = build_loss(loss, reduction="none")
        self.loss = MeanLoss()
        self.metrics = build_metrics(num_classes, multilabel).clone(prefix=f"{stage}/")
        self.per_class = build_per_class_accuracy(num_classes, multilabel)
        self.predictions = Predictions(num_classes, multilabel) if keep_predictions else None
        self._has_warned = False

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits float32 (N, C), and class indices (N,) or multi-hot targets (N, C)."""
        self.loss.update(self.image_losses(logits, targets))
        probabilities = to_probabilities(logits, self.multilabel)
        self.metrics.update(probabilities, targets.long())
        self.per_class.update(probabilities, targets.long())
        if self.predictions is not None:
            self.predictions.update(probabilities, targets)

    def compute(self) -> dict[str, Tensor]:
        """Return loss and metrics, named `<stage>/<name>`."""
        return {f"{self.stage}/loss": self.loss.compute(), **self.metrics.compute()}

    def per_class_accuracy(self) -> list[float | None]:
        """Return the accuracy of each class, in [0, 1]; None for one without an image."""
        return [None if math.isnan(accuracy) else accuracy for accuracy in self.per_class.compute().tolist()]

    def predicted(self) -> Predicted:
        """Return labels and probabilities of all images, rank after rank."""
        assert self.predictions is not None
        found: Predicted = self.predictions.compute()
        return found

    def warn_of_absent(self, class_names: tuple[str, ...] | None) -> None:
        """Warn, once, of classes that no image has and that no mean over classes counts; after `compute`."""
        absent = describe_absent(self.metrics, class_names)
        if absent is not None and not self._has_warned:
            self._has_warned = True
            pl.utilities.rank_zero_warn(f"{self.stage}: {absent}")

    def reset(self) -> None:
        """Begin anew."""
        for metric in (self.loss, self.metrics, self.per_class, self.predictions):
            if metric is not None:
                metric.reset()
