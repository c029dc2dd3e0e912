"""What a run saves while it trains: best.ckpt, last.ckpt, and its state when it is stopped."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from transfer.errors import RunInterrupted
from transfer.files import written_whole
from transfer.lightning import TorchCheckpointIO, pl
from transfer.run_files import BEST, LAST
from transfer.training.callbacks import is_end_of_run
from transfer.training.selection import is_validation_of_fit


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it: a full disk, kill or power cut leaves the old one whole.

    Lightning's own writes to the system's temporary folder first; a move from there to another disk that is cut short
    leaves half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint whole or not at all.

        Raises:
            OSError: the disk is full or refuses the file.
        """
        with written_whole(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch wraps what the disk said
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint; see Lightning's.

        Lightning files the data's state under the class of the datamodule, which used to be another for each dataset.
        """
        content = super().load_checkpoint(path, *arguments, **options)
        old = [key for key, value in content.items() if key.endswith("DataModule") and key != "DataModule"]
        for state in (content.get("state_dict", {}), content.get("current_model_state", {})):
            for key in [key for key in state if key.startswith("train_loss.")]:
                del state[key]  # which used to be a metric among the tensors
        return {"DataModule" if key in old else key: value for key, value in content.items()}


class LastCheckpoint(pl.callbacks.Checkpoint):
    """Keeps `last.ckpt`: the state after the last validation, whether it was the best or not."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if is_validation_of_fit(trainer):
            trainer.save_checkpoint(self.folder / LAST)


class UnvalidatedCheckpoints(pl.callbacks.Checkpoint):
    """Keeps, for a run without validation, `last.ckpt` every few epochs and the end as `best.ckpt`, too.

    As it is a Checkpoint, Lightning calls it after the module has closed its epoch.

    Args:
        folder: where they are written.
        every_n_epochs: epochs between two writings of `last.ckpt`.
    """

    def __init__(self, folder: str | Path, every_n_epochs: int) -> None:
        self.folder = Path(folder)
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_end = is_end_of_run(trainer)
        if is_end:  # first: a run stopped between the two resumes from the epoch before
            trainer.save_checkpoint(self.folder / BEST)
        if is_end or (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            trainer.save_checkpoint(self.folder / LAST)


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
        if threading.current_thread() is threading.main_thread():
            # After Lightning has noted the handlers that it puts back when fit() ends, in whatever way.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.received = number
        print("\nstopping after this step and writing last.ckpt; Ctrl-C again stops at once", flush=True)

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
