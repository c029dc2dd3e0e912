"""The live line of a run: the epoch, the time that is left, the loss, and the best validation's metric."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from transfer.lightning import pl
from transfer.progress import live_line
from transfer.training.run_length import name_epoch, total_steps


class ProgressBar(pl.callbacks.ProgressBar):
    """One line for the whole run, and one for its test. Comes before callbacks that print: it makes room for them.

    The loss that it shows is that of an earlier step, as a new one would wait for the device.

    Args:
        monitor: name of the val metric that it shows, of the last validation; None: none.
    """

    def __init__(self, monitor: str | None = None) -> None:
        super().__init__()
        self._monitor = monitor
        self._loss = LateNumber()
        self._metric: float | None = None
        self._line: tqdm[Any] | None = None
        self._is_shown = True

    def enable(self) -> None:
        self._is_shown = True

    def disable(self) -> None:
        """Show nothing, as Lightning wants it in all processes but one."""
        self._is_shown = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._line is None:  # not when training starts: others print then
            self._open(name_epoch(trainer, trainer.current_epoch + 1), total_steps(trainer), trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._line is None:
            return
        self._line.set_description_str(name_epoch(trainer, trainer.current_epoch + 1), refresh=False)
        if self._line.update(trainer.global_step - self._line.n):  # it is time to draw, and to look at numbers
            self._line.set_postfix_str(self._figures(trainer))

    def _figures(self, trainer: pl.Trainer) -> str:
        if (loss := trainer.callback_metrics.get("train/step_loss")) is not None:
            self._loss.update(loss)
        figures = {"loss": self._loss.value, f"val {self._monitor}": self._metric}
        return ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if value is not None)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._line is not None:
            self._line.set_description_str(f"{name_epoch(trainer, trainer.current_epoch + 1)}, validation")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clear()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (value := trainer.callback_metrics.get(f"val/{self._monitor}")) is not None:
            self._metric = value.item()  # the device has nothing left to do

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clear()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open("test", sum(trainer.num_test_batches))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._line is not None:
            self._line.update()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _open(self, what: str, total: float, done: int = 0) -> None:
        if self._is_shown:
            self._line = live_line(what, None if math.isinf(total) else int(total), done)

    def _clear(self) -> None:
        """Leave the terminal's line to what is printed next; the next step draws it again."""
        if self._line is not None:
            self._line.clear()

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


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
