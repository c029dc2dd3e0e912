"""A training loss that is no number any more, or is far above that of guessing."""

from __future__ import annotations

import math

from transfer.errors import Diverged
from transfer.lightning import pl

_FAR_ABOVE = 3.0  # times the loss of guessing, as the mean of an epoch


def refuse_divergence(what: str, loss: float, epoch: int, lr: float) -> None:
    """Stop a run whose loss is not finite.

    Args:
        what: `training` or `validation`.
        loss: mean loss of an epoch.
        epoch: the epoch, from 1.
        lr: peak learning rate of the run.

    Raises:
        Diverged: `loss` is not finite.
    """
    if not math.isfinite(loss):
        raise Diverged(
            f"{what} loss is {loss} in epoch {epoch}: the run has diverged; lower `lr` (now {lr}), lengthen"
            " `warmup_epochs` or set `gradient_clip_val`=1.0"
        )


def warn_of_rise(loss: float, answers: int, epoch: int, lr: float) -> bool:
    """Warn of a training loss far above that of a network that gives every answer the same probability.

    Args:
        loss: mean training loss of an epoch.
        answers: number of answers between which the loss chooses: the classes, or yes and no.
        epoch: the epoch, from 1.
        lr: peak learning rate of the run.

    Returns:
        Whether it warned.
    """
    guessing = math.log(answers)
    is_far_above = loss > _FAR_ABOVE * guessing
    if is_far_above:
        pl.utilities.rank_zero_warn(
            f"training loss is {loss:.3g} in epoch {epoch}, but {guessing:.3g} by guessing: the learning rate is too"
            f" high; lower `lr` (now {lr}) or lengthen `warmup_epochs`"
        )
    return is_far_above
