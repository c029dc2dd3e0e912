"""The learning-rate range test (Smith 2017, arXiv 1506.01186): the loss at rising rates, and the rate to take."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, Diverged
from transfer.lightning import pl
from transfer.training.callbacks import FreezeBackbone
from transfer.training.module import TransferModule
from transfer.training.trainer import build_trainer

# As many steps as fastai takes, over the rates at which SGD, AdamW and RMSProp learn: 14 steps for a factor of 10.
NUM_STEPS, LOWEST, HIGHEST = 100, 1e-6, 10.0
_FLAT_STEPS = 20  # below a rate of 3e-5 hardly anything is learned: these losses tell where the curve starts
_FAR_ABOVE = 2.0  # times the loss at the start: where a sweep ends
_CLEAR = 0.02  # of the loss at the start: the least fall that counts
_SMOOTHING = 3.0  # steps: standard deviation of the bell that averages neighbouring losses


@dataclass(frozen=True)
class RateCurve:
    """What a sweep found.

    Attributes:
        rates: learning rate of each step, rising. Shape: (S,)
        losses: training loss of each step's images, before it; the last one may not be finite. Shape: (S,)
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def start(self) -> float:
        """The loss before anything is learned."""
        return float(np.mean(self.losses[:_FLAT_STEPS]))

    @cached_property
    def smooth(self) -> NDArray[np.float64]:
        """The losses, each averaged with its neighbours on both sides, so that the curve does not lag. Shape: (S,)"""
        most = _FAR_ABOVE * self.start
        finite = np.where(np.isfinite(self.losses), np.minimum(self.losses, most), most)
        return np.asarray(gaussian_filter1d(finite, _SMOOTHING, mode="nearest"))

    @property
    def _clear(self) -> float:
        """A difference from the start that is not chance."""
        return max(_CLEAR * self.start, 2.0 * float(np.std(self.losses[:_FLAT_STEPS])))

    def find(self) -> float | None:
        """Return the rate to train with, to three digits; None if the loss does not fall clearly.

        It is the rate at which the smoothed loss falls fastest, per factor in the rate (fastai's `steep`).
        """
        lowest = int(self.smooth.argmin())
        if not math.isfinite(self.start) or self.start - self.smooth[lowest] < self._clear:
            return None
        slopes = np.gradient(self.smooth, np.log(self.rates))
        return float(f"{self.rates[slopes[: lowest + 1].argmin()]:.3g}")

    def suggestion(self) -> float:
        """Return `find`'s rate.

        Raises:
            Diverged: there is none, as the loss rises or is no number.
            BadValue: there is none, as the loss neither falls nor rises.
        """
        if (rate := self.find()) is not None:
            return rate
        last, advice = self.losses[-1], "choose `optim.lr` yourself"
        if not np.isfinite(last):
            raise Diverged(
                f"`find_lr`: the training loss is {last} at a learning rate of {self.rates[-1]:.2g}, and did not fall"
                f" below it: look at the images and labels, or {advice}"
            )
        if self.smooth[-1] - self.start > self._clear:
            raise Diverged(
                f"`find_lr`: the training loss rises from {self.start:.3g}, and does not fall clearly at any learning"
                f" rate: raise `data.batch_size`, of which the curve has less noise, or {advice}"
            )
        raise BadValue(
            f"`find_lr`: the training loss stays at {self.start:.3g} at learning rates from {LOWEST:g} to"
            f" {self.rates[-1]:.2g}: look at the labels and at what learns (`freeze`), or {advice}"
        )


class RateSweep(pl.Callback):
    """Takes each step at the next one of `rates`, and notes its loss; ends where the loss is far above its start.

    It needs a TransferModule of rate 1 whose schedule is constant: each group's rate is then its share of the head's.

    Attributes:
        losses: of the steps so far, the mean over all processes and accumulated batches.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = rates
        self.losses: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._shares = [group["lr"] for group in trainer.optimizers[0].param_groups]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for group, share in zip(trainer.optimizers[0].param_groups, self._shares, strict=True):
            group["lr"] = share * self.rates[trainer.global_step]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TransferModule)
        if trainer.global_step == len(self.losses):  # gradients are still accumulated
            return
        self.losses.append(pl_module.train_scores.compute()["train/loss"])
        pl_module.train_scores.reset()  # so that the end of an epoch has no mean to judge
        recent, start = np.mean(self.losses[-5:]), np.mean(self.losses[:_FLAT_STEPS])
        if not recent <= _FAR_ABOVE * start:  # or not a number
            trainer.should_stop = True


def sweep_rates(
    config: FinetuneConfig,
    module: TransferModule,
    data: pl.LightningDataModule,
    callbacks: Sequence[pl.Callback] = (),
    image_size: int | None = None,
) -> RateCurve:
    """Train a copy of a module for 100 steps at rising rates, and return the loss of each.

    The module, its data and all random states are left as they were. The copy trains as the run would: its optimizer,
    BatchNorm policy, mixing, teacher and frozen backbone are the run's, but a backbone that is frozen until an epoch
    learns from the start. It takes its 100 steps however short the run is.

    Args:
        config: the run's configuration.
        module: the module to train.
        data: the training data.
        callbacks: further callbacks of the sweep.
        image_size: side of the images in pixels, by which the precision `auto` is chosen; None if it is not known.
    """
    own = copy.deepcopy(module)
    own.lr, own.schedule, own.warmup_epochs = 1.0, "constant", 0.0
    sweep = RateSweep(np.geomspace(LOWEST, HIGHEST, NUM_STEPS).tolist())
    freezing = [FreezeBackbone(None)] if config.frozen_epochs() is None else []
    only_steps = replace(
        config.trainer,
        max_steps=NUM_STEPS,
        max_epochs=-1,
        min_epochs=None,
        min_steps=None,
        max_time=None,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        val_check_interval=None,
        profiler=None,
        enable_model_summary=False,
    )
    with pl.utilities.seed.isolate_rng():
        trainer = build_trainer(replace(config, trainer=only_steps), [], [*freezing, sweep, *callbacks], image_size)
        trainer.fit(own, copy.copy(data))
    return RateCurve(np.array(sweep.rates[: len(sweep.losses)]), np.array(sweep.losses))
