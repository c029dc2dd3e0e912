"""How long a run is. Infinite is what nobody knows: a run until `max_time`, or a loader without a length."""

from __future__ import annotations

import math

from transfer.errors import BadValue
from transfer.lightning import pl


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


def total_steps(trainer: pl.Trainer) -> float:
    """Return the optimizer steps of the run."""
    steps = trainer.estimated_stepping_batches
    return math.inf if steps < 0 else steps  # Lightning's -1: neither a length nor `max_steps`


def steps_per_epoch(trainer: pl.Trainer) -> float:
    """Return the optimizer steps of an epoch."""
    batches = trainer.num_training_batches
    return batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
