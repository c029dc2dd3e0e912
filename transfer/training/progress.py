"""The progress bar of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transfer.lightning import pl


class ProgressBar(pl.callbacks.RichProgressBar):
    """Lightning's bar. The loss that it shows is that of an earlier step, as a new one would wait for the device.

    Args:
        refresh_rate: batches between two refreshes.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._loss = LateNumber()

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        loss = trainer.callback_metrics.get("train/step_loss")
        if trainer.training and loss is not None:
            self._loss.update(loss)
        shown = {} if self._loss.value is None else {"train/step_loss": self._loss.value}
        return {**super().get_metrics(trainer, pl_module), **shown}


class LateNumber:
    """A number of the device that the processor learns when it has arrived, without waiting for it.

    Attributes:
        value: the last number that arrived; None before the first.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._arriving: Tensor | None = None
        self._arrival: torch.cuda.Event | None = None

    def update(self, number: Tensor) -> None:
        """Take the number that has arrived, and send for this one unless another is on its way."""
        if self._arriving is not None and (self._arrival is None or self._arrival.query()):  # type: ignore[no-untyped-call]  # torch's types
            self.value, self._arriving = self._arriving.item(), None
        if self._arriving is None:
            self._arriving = number.detach().to("cpu", non_blocking=True, copy=True)
            if number.is_cuda:
                self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._arrival.record()
