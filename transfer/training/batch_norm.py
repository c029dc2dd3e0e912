"""What BatchNorm does while fine-tuning: the policies, and the check that its statistics arrived.

In training BatchNorm normalises with the batch, in evaluation with running statistics that follow slowly. The
checkpoint's own momentum (0.01, made for hundreds of epochs) leaves them at ImageNet's values in a short run: the
training loss is small and the accuracy poor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transfer.errors import unknown_name
from transfer.networks.layers import untracked_batch_norm
from transfer.training.module import TransferModule
from transfer.training.optim import batch_norm_momentum

POLICIES = ("adapt", "frozen", "recompute", "train")


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All BatchNorm layers inside."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


@torch.no_grad()
def recompute_statistics(module: nn.Module, forward: Callable[[Tensor], object], batches: Iterator[Tensor]) -> None:
    """Replaces running statistics by the average over `batches`, with dropout and stochastic depth off.

    Args:
        module: whose BatchNorm layers are re-estimated, but for frozen ones; its training mode is left as it was.
        forward: runs a batch through them.
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


class BatchNormPolicy(pl.Callback):
    """Applies one policy to the BatchNorm layers of a TransferModule.

    Args:
        policy: `adapt`: the statistics follow at a pace set by the length of the run (`batch_norm_momentum`).
            `frozen`: the checkpoint's statistics are used in training too and never move; scale and shift learn.
            `recompute`: as adapt, and re-estimated over training images before each validation.
            `train`: the checkpoint's own momentum.
        num_batches: training batches that `recompute` averages over.

    Raises:
        UserError: no such policy.
    """

    def __init__(self, policy: str = "adapt", num_batches: int = 50) -> None:
        if policy not in POLICIES:
            raise unknown_name("bn policy", policy, POLICIES)
        self.policy = policy
        self.num_batches = num_batches

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.policy in ("adapt", "recompute"):
            # Counted in batches, each of which moves the statistics, also where several make up one optimizer step.
            batches = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
            momentum = batch_norm_momentum(int(trainer.num_training_batches), batches)
            for norm in batch_norms(pl_module):
                norm.momentum = momentum

        self.on_train_epoch_start(trainer, pl_module)  # which Lightning leaves out when it resumes in mid-epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.policy == "frozen":
            assert isinstance(pl_module, TransferModule)
            for norm in batch_norms(pl_module.classifier.backbone):  # a head's own has no statistics to keep
                norm.eval()

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.policy != "recompute" or trainer.sanity_checking:
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(), not declared by Lightning
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
    """All of `module` in eval mode, but BatchNorm in train or eval mode as asked; statistics do not move."""
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
    """Warns, once, when batch statistics and running statistics give different answers on the same training batch.

    Looks at the last batch of each epoch in the second half of the run.

    Args:
        tolerance: difference in accuracy, in [0, 1], from which on it warns.
    """

    def __init__(self, tolerance: float = 0.2) -> None:
        self.tolerance = tolerance
        self.warned = False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
    ) -> None:
        halfway = 2 * trainer.global_step > trainer.estimated_stepping_batches
        if self.warned or not trainer.is_last_batch or not halfway or batch[1].ndim != 1:
            return
        accuracy = {}
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for training in (True, False):
                with batch_norm_training(pl_module, training):
                    hits = pl_module(batch[0]).argmax(1) == batch[1]
                    accuracy[training] = hits.float().mean().item()
        gap = torch.tensor(accuracy[True] - accuracy[False], device=batch[0].device)
        if trainer.strategy.reduce(gap, reduce_op="mean") > self.tolerance:  # the same on all ranks
            self.warned = True
            rank_zero_warn(
                f"BatchNorm: {accuracy[True]:.0%} of the last training batch is right with the batch's own statistics"
                f" but {accuracy[False]:.0%} with the running statistics that evaluation uses: they lag behind."
                " Use `bn`=adapt (or recompute), train longer, or use a larger batch."
            )
