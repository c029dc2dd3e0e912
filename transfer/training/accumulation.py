"""Gradients of several batches that make up one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from transfer.lightning import pl


def complete_group(loss: Tensor, parameters: Iterable[Tensor], trainer: pl.Trainer | None, batch_idx: int) -> Tensor:
    """Return the loss to backpropagate, which Lightning divides by `accumulate_grad_batches`.

    An epoch's last step may have fewer batches than that. Then this one's loss, and the gradients of those before it,
    are scaled up, so that the step follows the mean over the batches that are there.

    Args:
        loss: mean loss of the batch.
        parameters: the parameters of the network.
        trainer: the trainer, in its training loop; None in a loop of the user's own, which accumulates by itself.
        batch_idx: number of the batch in its epoch.
    """
    if trainer is None:
        return loss
    present = (batch_idx + 1) % trainer.accumulate_grad_batches
    if present == 0 or not trainer.is_last_batch:
        return loss
    factor = trainer.accumulate_grad_batches / present
    if present > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
    return loss * factor
