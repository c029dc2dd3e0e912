"""What a run saves while it trains, and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
    """Keeps `last.ckpt`: the state after the last validation, whether it was the best or not, but not of the start."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if is_validation_of_fit(trainer) and trainer.global_step > 0:
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


class EpochEndResume(pl.Callback):
    """Goes on with the next epoch from a checkpoint written at the end of one; it comes before other callbacks.

    With `max_steps`, Lightning takes such an epoch for unfinished, and trains another batch in it.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loop = trainer.fit_loop
        if loop.restarted_on_epoch_end:
            loop.epoch_progress.increment_completed()
            loop.reset_restart_stage()
            loop._restarting = loop.epoch_loop.restarting = False
