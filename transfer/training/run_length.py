"""How long a run is. Infinite is what nobody knows: a run until `max_time`, or a loader without a length."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from transfer.errors import BadValue
from transfer.lightning import pl

FEW_STEPS = 20


def check_length(trainer: pl.Trainer, sam_rho: float | None) -> None:
    """Refuse a Trainer that would take no step, or another one than it says; Lightning takes or trips over them.

    Raises:
        BadValue: a field of the trainer.
    """
    batches = trainer.accumulate_grad_batches
    if batches < 1:
        raise BadValue(f"`accumulate_grad_batches`={batches} (allowed: at least 1)")
    if sam_rho is not None and batches > 1:
        raise BadValue(f"`sam_rho` with `accumulate_grad_batches`={batches}: both passes need the whole batch (use 1)")
    if trainer.max_steps == 0:
        raise BadValue("`max_steps`=0: nothing would be learned (allowed: at least 1, or -1 for no limit)")
    if trainer.val_check_interval == 0:
        raise BadValue("`val_check_interval`=0 (allowed: a number of batches, or a share of an epoch above 0)")


@dataclass(frozen=True)
class RunLength:
    """How long a run is planned to be.

    Attributes:
        global_batch_size: images per optimizer step, over all processes and accumulated batches.
        steps_per_epoch, planned_steps: optimizer steps; None if nobody knows.
        lr: peak learning rate of the head.
    """

    global_batch_size: int
    steps_per_epoch: int | None
    planned_steps: int | None
    lr: float

    def __str__(self) -> str:
        total = "an unknown number of" if self.planned_steps is None else f"{self.planned_steps:,}"
        epoch = "" if self.steps_per_epoch is None else f" ({self.steps_per_epoch:,} an epoch)"
        steps = f"{total} step{'s' * (self.planned_steps != 1)}{epoch}"
        return f"{steps} of {self.global_batch_size:,} images, peak learning rate {self.lr:.3g}"


def run_length(trainer: pl.Trainer, batch_size: int) -> RunLength:
    """Return the length of a run that has started, whose loaders yield `batch_size` images at once."""
    epoch, total = steps_per_epoch(trainer), total_steps(trainer)
    return RunLength(
        batch_size * trainer.accumulate_grad_batches * trainer.world_size,
        None if math.isinf(epoch) else int(epoch),
        None if math.isinf(total) else int(total),
        trainer.optimizers[0].param_groups[-1]["initial_lr"],
    )


class LengthReport(pl.Callback):
    """Says how long a run is when it starts, and warns of few steps.

    Args:
        batch_size: images that a loader yields at once.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        length = run_length(trainer, self.batch_size)
        print(length, flush=True)
        if length.planned_steps is not None and length.planned_steps < FEW_STEPS:
            warnings.warn(
                f"a run of {length.planned_steps} step{'s' * (length.planned_steps > 1)} can hardly learn:"
                " lower `batch_size` or raise `max_epochs`",
                stacklevel=2,
            )


def name_epoch(trainer: pl.Trainer, number: int) -> str:
    """Return what the log and the live line call an epoch, counted from 1: `epoch 2/10`."""
    return f"epoch {number}/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else f"epoch {number}"


def total_steps(trainer: pl.Trainer) -> float:
    """Return the optimizer steps of the run."""
    steps = trainer.estimated_stepping_batches
    return math.inf if steps < 0 else steps  # Lightning's -1: neither a length nor `max_steps`


def steps_per_epoch(trainer: pl.Trainer) -> float:
    """Return the optimizer steps of an epoch."""
    batches = trainer.num_training_batches
    return batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
