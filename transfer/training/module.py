"""The LightningModule: one training step, its metrics, its optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from transfer.config.data_schema import DataConfig
from transfer.config.schema import FinetuneConfig, LossConfig, OptimConfig
from transfer.errors import BadValue, UserError, unknown_name
from transfer.lightning import pl, refuse_mix
from transfer.networks.channels import channels_explained
from transfer.networks.classifier import Classifier
from transfer.networks.layers import untracked_batch_norm
from transfer.training import rebuild
from transfer.training.accumulation import complete_group
from transfer.training.batch_norm import POLICIES, BatchNormPolicy
from transfer.training.distillation import Distillation
from transfer.training.divergence import refuse_divergence, warn_of_rise
from transfer.training.losses import build_loss
from transfer.training.metrics import Predicted, fit_threshold
from transfer.training.mixing import Mix, draw_mix
from transfer.training.optim import build_optimizer, check_optimizer, parameter_groups
from transfer.training.random_state import get_random_state, set_random_state
from transfer.training.run_length import check_length, steps_per_epoch, total_steps
from transfer.training.sam import SAM
from transfer.training.schedules import build_schedule, check_schedule
from transfer.training.scores import Scores, to_probabilities
from transfer.training.train_scores import TrainScores

Batch = tuple[Tensor, Tensor]


class TransferModule(pl.LightningModule):
    """Fine-tunes a classifier on batches (images (N, C, H, W) float, targets), with the command's defaults.

    Targets are class indices (N,) or, with `multilabel`, multi-hot (N, num_classes). It logs once an epoch what
    `TrainScores` holds and, for `val` and `test`, `<stage>/loss` and the metrics of `build_metrics`. `predict_step`
    returns probabilities. `TransferModule.load_from_checkpoint(path)` builds a classifier that came from
    `build_classifier` again, and reads or downloads no other weights; for any other one, pass `classifier=` too.

    Attributes:
        per_class_accuracy: accuracy of each class in the last test, in [0, 1], in class order; None without an image.
        predictions: labels and probabilities of the last test, rank after rank; None before it.

    Args:
        classifier: has `backbone`, `head` and `num_classes`. None builds one from the next twelve arguments, which are
            those of `build_classifier` and are not used otherwise.
        backbone: name of the backbone.
        num_classes: outputs of the head; None keeps the classifier that came with the weights.
        pretrained: which weights to start from: True, False, or a name.
        init_from: backbone or weights to take over what overlaps from.
        weights: file to read instead of the weights' own source.
        load_weights: whether to fill the network with these weights, not only to build what they fit.
        head: name of the head.
        dropout: probability of dropping a feature before the last layer, in [0, 1); None takes the published rate.
        in_channels: channels of the images.
        stochastic_depth_prob: probability of dropping the last residual branch, in [0, 1).
        grad_checkpointing: whether to save memory at the cost of time.
        output_stride: pixels of the image per cell of the backbone's map: 32, 16 or 8.
        multilabel: whether an image may have several labels; needs the loss `bce`.
        loss: `cross_entropy` or `bce`.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: weight of each class in the loss, (C,).
        logit_adjustment: what is added to the logits in the training loss, (C,); see `transfer.training.losses`.
        mixup_alpha: mixup's share is drawn from Beta(alpha, alpha); 0 turns it off.
        cutmix_alpha: likewise for cutmix.
        optimizer: `sgd` (Nesterov), `adamw` or `rmsprop` (TensorFlow's).
        lr: peak learning rate of the head for the whole batch of all processes and accumulation steps.
        momentum: momentum of sgd and rmsprop, in [0, 1).
        weight_decay: weight decay of weights; norms and biases get none.
        backbone_lr_factor: learning rate of the backbone relative to the head's.
        layer_decay: learning rate of each stage relative to the next stage's, in (0, 1].
        schedule: a name in `transfer.training.schedules.SCHEDULES`: `cosine`, `constant`, ...
        warmup_epochs: length of the linear warm-up, in epochs; may be a fraction.
        sam_rho: neighbourhood of sharpness-aware minimization (`transfer.training.sam`); None turns it off.
        bn: policy of `transfer.training.batch_norm.BatchNormPolicy`, unless the Trainer has that callback already.
        distillation: a teacher to learn from; checkpoints do not hold it.

    Raises:
        UserError: an unknown name, a value out of range, or values that do not go together.
    """

    def __init__(
        self,
        classifier: Classifier | None = None,
        *,
        backbone: str | None = None,
        num_classes: int | None = None,
        pretrained: bool | str = FinetuneConfig.pretrained,
        init_from: str | None = FinetuneConfig.init_from,
        weights: str | None = FinetuneConfig.weights,
        load_weights: bool = True,
        head: str = FinetuneConfig.head,
        dropout: float | None = FinetuneConfig.dropout,
        in_channels: int = 3,
        stochastic_depth_prob: float = FinetuneConfig.stochastic_depth_prob,
        grad_checkpointing: bool = FinetuneConfig.grad_checkpointing,
        output_stride: int = 32,
        multilabel: bool = DataConfig.multilabel,
        loss: str = LossConfig.name,
        label_smoothing: float = LossConfig.label_smoothing,
        class_weights: Sequence[float] | Tensor | None = None,
        logit_adjustment: Sequence[float] | Tensor | None = None,
        mixup_alpha: float = LossConfig.mixup_alpha,
        cutmix_alpha: float = LossConfig.cutmix_alpha,
        optimizer: str = OptimConfig.name,
        lr: float = OptimConfig.lr,
        momentum: float = OptimConfig.momentum,
        weight_decay: float = OptimConfig.weight_decay,
        backbone_lr_factor: float = OptimConfig.backbone_lr_factor,
        layer_decay: float = OptimConfig.layer_decay,
        schedule: str = OptimConfig.schedule,
        warmup_epochs: float = OptimConfig.warmup_epochs,
        sam_rho: float | None = OptimConfig.sam_rho,
        bn: str = FinetuneConfig.bn,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        refuse_mix()
        if multilabel and loss != "bce":
            raise BadValue(f"`loss`={loss!r}: several labels per image need `loss`='bce'")
        if bn not in POLICIES:
            raise unknown_name("bn policy", bn, POLICIES)
        check_optimizer(optimizer)
        check_schedule(schedule)
        per_class = (None if v is None else torch.as_tensor(v).float() for v in (class_weights, logit_adjustment))
        self.loss, self.loss_name = build_loss(loss, label_smoothing, *per_class), loss
        self.multilabel, self.mixup_alpha, self.cutmix_alpha = multilabel, mixup_alpha, cutmix_alpha
        self.optimizer, self.momentum, self.weight_decay = optimizer, momentum, weight_decay
        self.lr, self.backbone_lr_factor, self.layer_decay = lr, backbone_lr_factor, layer_decay
        self.schedule, self.warmup_epochs, self.sam_rho, self.bn = schedule, warmup_epochs, sam_rho, bn
        self.distillation = distillation
        # A command's logger has its configuration.
        self.save_hyperparameters(ignore=["classifier", "distillation"], logger=False)
        self._is_rebuilt = classifier is None
        self.train_scores = TrainScores()
        self.classifier = rebuild.build(self.hparams) if classifier is None else classifier
        if layer_decay != 1.0:
            parameter_groups(self.classifier, lr, weight_decay, layer_decay=layer_decay)  # refuses it before a run
        self._build_scores()
        self._rng_to_restore: dict[str, Tensor] | None = None
        self._is_replay = self._has_warned = False

    def _build_scores(self) -> None:
        """Make metrics for the classifier's number of classes."""
        arguments = self.classifier.num_classes, self.multilabel, self.loss_name
        self.val_scores = Scores("val", *arguments, keep_predictions=self.multilabel)
        self.test_scores = Scores("test", *arguments, keep_predictions=True)
        self.per_class_accuracy: list[float | None] = []
        self.predictions: Predicted | None = None

    @property
    def backbone(self) -> nn.Module:
        """The classifier's backbone, as Lightning's `BackboneFinetuning` looks for it."""
        return self.classifier.backbone

    def setup(self, stage: str) -> None:
        """Follow a head that was replaced, and compare the data with what the classifier knows."""
        if self.classifier.num_classes != self.test_scores.num_classes:
            self._build_scores()
        rebuild.meet_data(self.classifier, getattr(self.trainer, "datamodule", None))

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return the BatchNorm policy, unless the Trainer has one, and the distillation."""
        has_policy = any(isinstance(callback, BatchNormPolicy) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]  # not declared by Lightning
        own: list[pl.Callback] = [] if has_policy else [BatchNormPolicy(self.bn)]
        return own if self.distillation is None else [*own, self.distillation]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for normalised images (N, C, H, W)."""
        weight = next(self.classifier.parameters(), images)  # bfloat16 under the precision bf16-true
        with channels_explained(images):
            return self.classifier(images.to(weight.dtype) if images.is_floating_point() else images)

    def batch_loss(self, images: Tensor, targets: Tensor, mix: Mix | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch, and its logits (N, num_classes); torch.compile takes it as one graph."""
        images = images if mix is None else mix.blend(images)
        logits = self(images)
        loss: Tensor = self.loss(logits, targets)
        if mix is not None:
            loss = mix.share * loss + (1.0 - mix.share) * self.loss(logits, targets[mix.partner])
        if self.distillation is not None:
            loss = self.distillation.loss(loss, logits, images, self.multilabel)
        return loss, logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        mix = draw_mix(images, self.mixup_alpha, self.cutmix_alpha)
        loss, logits = self.batch_loss(images, targets, mix)
        if not self._is_replay:
            has_class = mix is None and not self.multilabel
            self.train_scores.update(loss, logits if has_class else None, targets)
            self.log("train/step_loss", loss.detach())  # Lightning reads what is logged with `prog_bar` at every step
        return complete_group(loss, self.parameters(), self._trainer, batch_idx)

    def on_train_epoch_start(self) -> None:
        self.train_scores.reset()  # not called where a run resumes in the middle of an epoch

    def on_train_epoch_end(self) -> None:
        if not len(self.train_scores):  # a run that resumes at the end of this epoch has logged it
            return
        scores = self.train_scores.compute()
        loss = scores["train/loss"]
        self.train_scores.reset()
        refuse_divergence("training", loss, self.current_epoch + 1, self.lr)
        answers = 2 if self.loss_name == "bce" else self.classifier.num_classes
        self._has_warned = self._has_warned or warn_of_rise(loss, answers, self.current_epoch + 1, self.lr)
        self.log_dict(scores, sync_dist=True)

    def on_validation_epoch_start(self) -> None:
        self.val_scores.reset()  # here, as what `trainer.validate` resets cannot be updated in a fit

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_scores.update(self(batch[0]).float(), batch[1])

    def on_validation_epoch_end(self) -> None:
        values = self.val_scores.compute()
        if not self.trainer.sanity_checking:
            refuse_divergence("validation", values["val/loss"].item(), self.current_epoch + 1, self.lr)
        self._log_scores(self.val_scores, values)
        if self.multilabel:
            self.classifier.threshold = fit_threshold(self.val_scores.predicted())

    def _log_scores(self, scores: Scores, values: dict[str, Tensor]) -> None:
        self.log_dict(values, sync_dist=True, reduce_fx="max")  # all ranks have the same; a mean would round them
        if not self.trainer.sanity_checking:
            scores.warn_of_absent(getattr(self.classifier, "class_names", None))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.test_scores.update(self(batch[0]).float(), batch[1])

    def on_test_epoch_end(self) -> None:
        """Log the metrics and keep `per_class_accuracy` and `predictions`."""
        self._log_scores(self.test_scores, self.test_scores.compute())
        self.per_class_accuracy = self.test_scores.per_class_accuracy()
        self.predictions = self.test_scores.predicted()
        self.test_scores.reset()

    def predict_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return probabilities, float32 (N, num_classes), for a batch: images, or a sequence that begins with them."""
        return to_probabilities(self(batch if isinstance(batch, Tensor) else batch[0]).float(), self.multilabel)

    def configure_optimizers(self) -> pl.utilities.types.OptimizerLRScheduler:
        check_length(self.trainer, self.sam_rho)
        try:
            self.trainer.fit_loop.setup_data()  # or num_training_batches may not be known yet
        except ValueError as error:
            raise (error if isinstance(error, UserError) else BadValue(f"`trainer`: {error}")) from None
        groups = parameter_groups(
            self.classifier,
            self.lr,
            self.weight_decay,
            self.backbone_lr_factor,
            self.layer_decay,
            # Such a callback adds what it unfreezes, at a rate of its own.
            only_trainable=any(isinstance(c, pl.callbacks.BaseFinetuning) for c in self.trainer.callbacks),  # type: ignore[attr-defined]
        )
        clips = bool(self.trainer.gradient_clip_val)
        optimizer = build_optimizer(self.optimizer, groups, self.lr, self.momentum, fused=not clips)
        if self.sam_rho is not None:
            optimizer = SAM(optimizer, self.sam_rho, lambda: self._replay(get_random_state(self.device)))
        scheduler = build_schedule(
            optimizer, self.schedule, self.warmup_epochs, total_steps(self.trainer), steps_per_epoch(self.trainer)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @contextmanager
    def _replay(self, rng: dict[str, Tensor]) -> Iterator[None]:
        """Repeat the dropout, stochastic depth and mixing that followed `rng`; BatchNorm and metrics do not move."""
        set_random_state(rng, self.device)
        self._is_replay = True
        try:
            with untracked_batch_norm(self.classifier):
                yield
        finally:
            self._is_replay = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state, so that dropout and mixing resume where they stopped, and what rebuilds the module."""
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = rebuild.hyperparameters(self.hparams, self.classifier, self.lr)
        checkpoint.update(rebuild.knowledge(self.classifier), rng=get_random_state(self.device))
        checkpoint.update(self.train_scores.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rng_to_restore = checkpoint.get("rng")
        self.train_scores.restore(checkpoint)
        if self._is_rebuilt:
            rebuild.restore_knowledge(self.classifier, checkpoint)

    def on_train_start(self) -> None:
        rebuild.learn_preprocessing(self.classifier, getattr(self.trainer, "datamodule", None))
        if self._rng_to_restore is not None:
            set_random_state(self._rng_to_restore, self.device)
            self._rng_to_restore = None
