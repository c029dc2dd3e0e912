"""What BatchNorm does while fine-tuning: the policies, and the check that its statistics arrived.

In training BatchNorm normalises with the batch, in evaluation with running statistics that follow slowly. The
checkpoint's own momentum (0.01, made for hundreds of epochs) leaves them at ImageNet's values in a short run: the
training loss is small and the accuracy poor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, unknown_name
from transfer.lightning import pl
from transfer.networks.layers import fold_norms, untracked_batch_norm
from transfer.training.run_length import total_steps

_LONG_EPOCH = 50  # batches, from which on two more forward passes cost little: about 0.7 of a training step
POLICIES = ("adapt", "frozen", "recompute", "train")


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Return all BatchNorm layers of a module."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def backbone_of(pl_module: pl.LightningModule) -> nn.Module:
    """Return the `backbone` of a LightningModule.

    Raises:
        UserError: it has none.
    """
    backbone = getattr(pl_module, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise BadValue(f"{type(pl_module).__name__} has no `backbone`: set it to the nn.Module to freeze")
    return backbone


@torch.no_grad()
def recompute_statistics(module: nn.Module, forward: Callable[[Tensor], object], batches: Iterator[Tensor]) -> None:
    """Replace running statistics by their average over `batches`, with dropout and stochastic depth off.

    Args:
        module: its BatchNorm layers are re-estimated, except frozen ones; its training mode is left as it was.
        forward: runs a batch through these layers.
        batches: images (N, C, H, W), normalised.
    """
    norms = [norm for norm in batch_norms(module) if norm.weight is None or norm.weight.requires_grad]
    modes = {m: m.training for m in module.modules()}
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.training = True
    for images in batches:
        forward(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for m, mode in modes.items():
        m.training = mode


def batch_norm_momentum(steps_per_epoch: float, total_steps: float) -> float:
    """Return the weight of a new batch in BatchNorm's running statistics (torch convention) while fine-tuning.

    Kornblith, Shlens & Le 2019 adapt TensorFlow's momentum to the dataset: max(1 - 10 / s, 0.9) with s steps per epoch,
    which is min(10 / s, 0.1) here. In a run too short for that, the statistics are still half the checkpoint's when it
    ends, and evaluation fails while the training loss looks fine; so their memory, 1 / momentum steps, is kept to at
    most a fortieth of the run. More than 0.3 would leave the statistics of the last few batches only.

    Args:
        steps_per_epoch: batches of an epoch; infinite if unknown.
        total_steps: batches of the run; infinite if unknown.

    Raises:
        UserError: fewer than one step.
    """
    if steps_per_epoch < 1 or total_steps < 1:
        raise BadValue(f"a run needs at least one step (per epoch {steps_per_epoch}, in all {total_steps})")
    return max(min(10 / steps_per_epoch, 0.1), min(40 / total_steps, 0.3))


class BatchNormPolicy(pl.Callback):
    """Applies one policy to the BatchNorm layers of a module. TransferModule brings its own.

    Args:
        policy: `adapt`: the statistics follow at a pace set by the length of the run (`batch_norm_momentum`), or at
            the weights' own pace if nobody knows that length.
            `frozen`: the checkpoint's statistics are used in training too and never move; scale and shift learn. Each
            step folds them into the convolutions (`transfer.networks.layers.fold_norms`).
            `recompute`: as adapt, and re-estimated over training images before each validation.
            `train`: the checkpoint's own momentum.
        num_batches: training batches that `recompute` averages over.

    Raises:
        UserError: unknown policy.
    """

    def __init__(self, policy: str = FinetuneConfig.bn, num_batches: int = 50) -> None:
        if policy not in POLICIES:
            raise unknown_name("bn policy", policy, POLICIES)
        self.policy = policy
        self.num_batches = num_batches

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Counted in batches, each of which moves the statistics, also where several make up one optimizer step.
        per_epoch, in_all = trainer.num_training_batches, total_steps(trainer) * trainer.accumulate_grad_batches
        if self.policy in ("adapt", "recompute") and math.isfinite(min(per_epoch, in_all)):
            for norm in batch_norms(pl_module):
                norm.momentum = batch_norm_momentum(per_epoch, in_all)
        if self.policy == "frozen":
            fold_norms(backbone_of(pl_module))
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it when it resumes in mid-epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.policy == "frozen":
            for norm in batch_norms(backbone_of(pl_module)):  # a head's own has no statistics to keep
                norm.eval()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fold_norms(pl_module, False)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.policy != "recompute" or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(), not declared by Lightning
        if not hasattr(datamodule, "calibration_dataloader"):
            raise BadValue("`bn`='recompute' needs a datamodule with `calibration_dataloader()` (use 'adapt')")
        loader = datamodule.calibration_dataloader()

        def batches() -> Iterator[Tensor]:
            for batch in islice(loader, self.num_batches):
                yield trainer.strategy.batch_to_device(batch)[0]

        with trainer.precision_plugin.forward_context():
            recompute_statistics(pl_module, pl_module.forward, batches())
        for norm in batch_norms(pl_module):
            for statistic in (norm.running_mean, norm.running_var):
                if statistic is not None:
                    statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))


@contextmanager
def batch_norm_training(module: nn.Module, training: bool) -> Iterator[None]:
    """Put all of `module` in eval mode, but its BatchNorm in train or eval mode as asked; statistics do not move."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    for norm in batch_norms(module):
        norm.training = training
    try:
        with untracked_batch_norm(module):
            yield
    finally:
        for m, mode in modes.items():
            m.training = mode


class BatchNormCheck(pl.Callback):
    """Answers the last training batch of an epoch with batch statistics and with running ones, without dropout.

    It warns, once, if in the second half of the run the latter are right less often. Where an epoch is so short that
    the two passes would be felt, it looks at the epochs of that half alone.

    Attributes:
        accuracies: `train/top1_batch_statistics` and `train/top1_running_statistics` of the epoch's last batch, in
            [0, 1]; empty until they are measured, and where the statistics are frozen.

    Args:
        tolerance: smallest difference in accuracy that it warns of, in [0, 1].
    """

    def __init__(self, tolerance: float = 0.2) -> None:
        self.tolerance = tolerance
        self.warned = False
        self.accuracies: dict[str, float] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.accuracies = {}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
    ) -> None:
        halfway = 2 * trainer.global_step > total_steps(trainer)
        if not trainer.is_last_batch or batch[1].ndim != 1 or not (halfway or batch_idx + 1 >= _LONG_EPOCH):
            return
        if not any(norm.training for norm in batch_norms(pl_module)):  # frozen: training uses what evaluation does
            return
        shares = []
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for training in (True, False):
                with batch_norm_training(pl_module, training):
                    shares.append((pl_module(batch[0]).argmax(1) == batch[1]).float().mean())
        own, running = trainer.strategy.reduce(torch.stack(shares), reduce_op="mean").tolist()  # the same on all ranks
        self.accuracies = {"train/top1_batch_statistics": own, "train/top1_running_statistics": running}
        if halfway and not self.warned and own - running > self.tolerance:
            self.warned = True
            pl.utilities.rank_zero_warn(
                f"BatchNorm: {own:.0%} of the last training batch is right with the batch's own statistics but"
                f" {running:.0%} with the running statistics that evaluation uses: they lag behind. Train longer, use a"
                " larger batch, or set `bn`=recompute."
            )
