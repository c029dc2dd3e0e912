"""How long a run is. Infinite is what nobody knows: a run until `max_time`, or a loader without a length."""

from __future__ import annotations

import math

from transfer.lightning import pl


def total_steps(trainer: pl.Trainer) -> float:
    """Return the optimizer steps of the run."""
    steps = trainer.estimated_stepping_batches
    return math.inf if steps < 0 else steps  # Lightning's -1: neither a length nor `max_steps`


def steps_per_epoch(trainer: pl.Trainer) -> float:
    """Return the optimizer steps of an epoch."""
    batches = trainer.num_training_batches
    return batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
