"""The LightningModule: one training step, its metrics, its optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from transfer.errors import BadValue, Diverged
from transfer.networks.classifier import Classifier
from transfer.networks.layers import untracked_batch_norm
from transfer.training.losses import build_loss
from transfer.training.metrics import Predictions, build_metrics, build_per_class_accuracy
from transfer.training.mixing import mix_batch
from transfer.training.optim import build_optimizer, parameter_groups, schedule_factor
from transfer.training.sam import SAM

Batch = tuple[Tensor, Tensor]


class TransferModule(pl.LightningModule):
    """Fine-tunes a classifier on batches (images (N, C, H, W) float, targets).

    Targets are class indices (N,) or, with `multilabel`, multi-hot (N, num_classes). Logs `train/loss` and, for `val`
    and `test`, `<stage>/loss` and the metrics of `transfer.training.metrics.build_metrics`, once an epoch.

    Attributes:
        per_class_accuracy: of each class in [0, 1] in the last test, in class order.
        predictions: label and predicted class of each image of the last test, int64 (N, 2) on the CPU, rank after rank;
            None before it and with `multilabel`.

    Args:
        classifier: with `backbone` and `head`.
        multilabel: several labels per image.
        loss: `cross_entropy` or `bce`.
        label_smoothing: in [0, 1).
        class_weights: (C,) or None.
        mixup_alpha, cutmix_alpha: of the Beta distribution of the mixing share; 0 is off.
        optimizer: `sgd` (Nesterov), `adamw`, `rmsprop` (TensorFlow's).
        lr: peak learning rate of the head for the whole batch of all processes and accumulation steps.
        momentum: of sgd and rmsprop.
        weight_decay: of weights; norms and biases get none.
        backbone_lr_factor: learning rate of the backbone relative to the head's.
        layer_decay: in (0, 1]; each stage's learning rate relative to the next stage's.
        schedule: `cosine`, `exponential` (the paper's) or `constant`.
        warmup_epochs: linear warm-up, in epochs; may be a fraction.
        sam_rho: neighbourhood of sharpness-aware minimization (`transfer.training.sam`); None is off.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        multilabel: bool = False,
        loss: str = "cross_entropy",
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        optimizer: str = "sgd",
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-5,
        backbone_lr_factor: float = 1.0,
        layer_decay: float = 1.0,
        schedule: str = "cosine",
        warmup_epochs: float = 0.0,
        sam_rho: float | None = None,
    ) -> None:
        super().__init__()
        if multilabel and loss != "bce":
            raise BadValue(f"`loss`={loss!r}: several labels per image need `loss`='bce'")
        if layer_decay != 1.0:
            parameter_groups(classifier, lr, weight_decay, layer_decay=layer_decay)  # refuses it before a run begins
        self.classifier = classifier
        self.multilabel = multilabel
        self.loss = build_loss(loss, label_smoothing, class_weights)
        self.eval_loss = build_loss(loss)  # comparable between runs: no smoothing, no class weights
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.optimizer, self.momentum, self.weight_decay = optimizer, momentum, weight_decay
        self.lr = lr
        self.backbone_lr_factor, self.layer_decay = backbone_lr_factor, layer_decay
        self.schedule, self.warmup_epochs = schedule, warmup_epochs
        self.sam_rho = sam_rho

        metrics = build_metrics(classifier.num_classes, multilabel)
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        self.test_per_class = build_per_class_accuracy(classifier.num_classes, multilabel)
        self.test_predictions = None if multilabel else Predictions()
        self.train_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.train_loss.persistent(True)  # an epoch's mean goes on after a resume in its middle
        self.per_class_accuracy: list[float] = []
        self.predictions: Tensor | None = None
        self._rng_to_restore: dict[str, Tensor] | None = None
        self._is_replay = False

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalised images (N, C, H, W)."""
        return self.classifier(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        if self.mixup_alpha or self.cutmix_alpha:
            images, partner, share = mix_batch(images, self.mixup_alpha, self.cutmix_alpha)
            logits = self.classifier(images)
            loss = share * self.loss(logits, targets) + (1.0 - share) * self.loss(logits, targets[partner])
        else:
            loss = self.loss(self.classifier(images), targets)
        if not self._is_replay:
            self.train_loss.update(loss.detach())
            self.log("train/step_loss", loss.detach(), prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        if self.train_loss.update_count == 0:  # resumed from the end of this epoch, which was logged before
            self.train_loss.reset()
            return
        loss = self.train_loss.compute()
        self.train_loss.reset()
        self._refuse_divergence("training", loss)
        self.log("train/loss", loss, sync_dist=True)

    def _refuse_divergence(self, what: str, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise Diverged(
                f"{what} loss is {loss.item()} in epoch {self.current_epoch + 1}: the run has diverged;"
                f" lower `lr` (now {self.lr}), lengthen `warmup_epochs` or set"
                " `gradient_clip_val`=1.0"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        logits = self.classifier(images).float()
        self.val_loss.update(self.eval_loss(logits, targets), len(images))
        self.val_metrics.update(self._probabilities(logits), targets.long())

    def on_validation_epoch_end(self) -> None:
        loss = self.val_loss.compute()
        if not self.trainer.sanity_checking:
            self._refuse_divergence("validation", loss)  # before a checkpoint is written
        self.log_dict({"val/loss": loss, **self.val_metrics.compute()}, sync_dist=True)
        self.val_loss.reset()
        self.val_metrics.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        logits = self.classifier(images).float()
        self.test_loss.update(self.eval_loss(logits, targets), len(images))
        probabilities = self._probabilities(logits)
        self.test_metrics.update(probabilities, targets.long())
        self.test_per_class.update(probabilities, targets.long())
        if self.test_predictions is not None:
            self.test_predictions.update(probabilities, targets)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.multilabel else logits.softmax(1)

    def on_test_epoch_end(self) -> None:
        """Logs the metrics and keeps `per_class_accuracy` and `predictions`."""
        self.log_dict({"test/loss": self.test_loss.compute(), **self.test_metrics.compute()}, sync_dist=True)
        self.per_class_accuracy = self.test_per_class.compute().tolist()
        for metric in (self.test_loss, self.test_metrics, self.test_per_class):
            metric.reset()
        if self.test_predictions is not None:
            self.predictions = self.test_predictions.compute()
            self.test_predictions.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        try:
            self.trainer.fit_loop.setup_data()  # or num_training_batches may not be known yet
        except ValueError as error:
            raise BadValue(f"`trainer`:{error}") from None
        total_steps = int(self.trainer.estimated_stepping_batches)
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        warmup_steps = round(self.warmup_epochs * steps_per_epoch)
        groups = parameter_groups(
            self.classifier, self.lr, self.weight_decay, self.backbone_lr_factor, self.layer_decay
        )
        optimizer = build_optimizer(self.optimizer, groups, self.lr, self.momentum)
        if self.sam_rho is not None:
            optimizer = SAM(optimizer, self.sam_rho, self._replay)
        scheduler = LambdaLR(
            optimizer,
            lambda step: schedule_factor(self.schedule, step, total_steps, steps_per_epoch, warmup_steps),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _replay(self) -> AbstractContextManager[None]:
        """A second training step on the same batch: the dropout, stochastic depth and mixing of the one that follows
        this call; BatchNorm statistics and metrics stay as that one leaves them.
        """
        rng = self._get_rng()

        @contextmanager
        def replay() -> Iterator[None]:
            self._set_rng(rng)
            self._is_replay = True
            try:
                with untracked_batch_norm(self.classifier):
                    yield
            finally:
                self._is_replay = False

        return replay()

    def _get_rng(self) -> dict[str, Tensor]:
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return rng

    def _set_rng(self, rng: dict[str, Tensor]) -> None:
        torch.set_rng_state(rng["cpu"].cpu())
        if "cuda" in rng and self.device.type == "cuda":
            torch.cuda.set_rng_state(rng["cuda"].cpu(), self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the random state, so that dropout and mixing go on after a resume as if nothing had happened."""
        checkpoint["rng"] = self._get_rng()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rng_to_restore = checkpoint.get("rng")

    def on_train_start(self) -> None:
        if self._rng_to_restore is not None:
            self._set_rng(self._rng_to_restore)
            self._rng_to_restore = None
