"""What Ctrl-C and SIGTERM do to a run; Lightning would end it without a word and with the status of a success."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from transfer.errors import Interrupted, RunInterrupted
from transfer.lightning import pl

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], None]


def _handle(handler: Handler) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, handler)


@contextmanager
def interruptible(interruption: Callable[[int], Interrupted]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise an exception at once, wherever the program is.

    Args:
        interruption: makes the exception for a signal.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def stop(number: int, frame: FrameType | None) -> None:
        raise interruption(number)

    _handle(stop)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _end(trainer: pl.Trainer, interruption: Interrupted) -> NoReturn:
    """Raise in the first process; end the others without a word, as they hold nothing, and may wait for each other."""
    if not trainer.is_global_zero:
        os._exit(128 + interruption.signal_number)
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signal.SIGKILL)
    raise interruption


class StopAtOnce(pl.Callback):
    """On Ctrl-C or SIGTERM in a test or a fit that leaves nothing, raises an exception and ends Lightning's processes.

    Lightning's own handler lets the ranks talk to each other, and waits for ever for one that is in another exchange.

    Args:
        interruption: makes the exception for a signal.
        starter: the Trainer that started the processes; None: the one that runs.
    """

    def __init__(self, interruption: Callable[[int], Interrupted], starter: pl.Trainer | None = None) -> None:
        self.interruption = interruption
        self.starter = starter

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            _end(self.starter or trainer, self.interruption(number))

        _handle(stop)  # Lightning puts back those that it found

    on_train_start = on_test_start


class GracefulStop(pl.Callback):
    """On Ctrl-C or SIGTERM, finishes the optimizer step, writes the checkpoint and raises `RunInterrupted`.

    If a validation follows the step, the stop comes after it, as a resumed run would leave it out. A second Ctrl-C
    stops at once. A SIGTERM does not: Ctrl-C reaches both the run and the process that started it, which passes a
    SIGTERM on.

    Args:
        checkpoint: the file to write.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.received: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def receive(number: int, frame: FrameType | None) -> None:
            if self.received is not None:
                if number == signal.SIGINT:
                    _end(trainer, RunInterrupted(number, self.checkpoint))
                return
            self.received = number
            if trainer.is_global_zero:
                print("\nstopping after this step and writing last.ckpt; Ctrl-C again stops at once", flush=True)

        _handle(receive)  # after Lightning has noted those that it puts back when fit() ends, in whatever way

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        interval = trainer.val_check_batch
        if trainer.is_last_batch or (interval is not None and (batch_idx + 1) % interval == 0):
            return
        # Ranks must agree, which costs a synchronisation: not at every step.
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and (trainer.world_size == 1 or batch_idx % 20 == 19):
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            trainer.save_checkpoint(self.checkpoint)
            raise RunInterrupted(self.received or signal.SIGTERM, self.checkpoint)
