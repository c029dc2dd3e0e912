"""Progressive learning: the callback that tells a run's parts which stage they are in."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from transfer.errors import BadValue
from transfer.lightning import pl
from transfer.progressive import FIRST_DROPOUT, FIRST_MIXING, Stages, grown
from transfer.training.module import TransferModule
from transfer.training.run_length import steps_per_epoch, total_steps


class Progressive(pl.Callback):
    """Lets the images of a DataModule with `progressive` grow, and mixup, CutMix and the head's dropout with them.

    The stage follows from epoch and batch, so a resumed run goes on as an uninterrupted one. It needs a TransferModule.

    Raises:
        UserError: when training starts, if nobody knows the length of the run, or the data cannot grow.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        steps, loader = total_steps(trainer), trainer.train_dataloader
        if math.isinf(steps):
            raise BadValue("`progressive` divides the run, whose length nobody knows: give `max_steps`")
        sampler = getattr(loader, "rank_sampler", None)
        if loader is None or sampler is None or not hasattr(sampler, "stages"):
            raise BadValue("`progressive` needs a `datamodules.datamodule.DataModule` and all of its training images")
        self.stages = Stages(
            int(steps), int(steps_per_epoch(trainer)), trainer.accumulate_grad_batches, loader.batch_size
        )
        sampler.stages = self.stages
        self.dropouts = [module for module in pl_module.classifier.head.modules() if isinstance(module, nn.Dropout)]
        self.last_dropouts = [module.p for module in self.dropouts]
        self.last_alphas = pl_module.mixup_alpha, pl_module.cutmix_alpha

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TransferModule)
        stage = self.stages.of_batch(trainer.current_epoch, batch_idx)
        pl_module.mixup_alpha, pl_module.cutmix_alpha = (grown(FIRST_MIXING, a, stage) for a in self.last_alphas)
        for module, last in zip(self.dropouts, self.last_dropouts, strict=True):
            module.p = grown(FIRST_DROPOUT, last, stage)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        pl_module.mixup_alpha, pl_module.cutmix_alpha = self.last_alphas
        for module, last in zip(self.dropouts, self.last_dropouts, strict=True):
            module.p = last
