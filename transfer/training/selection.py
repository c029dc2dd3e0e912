"""Which validation is the best one, and what follows from it: `best.ckpt`, early stopping, the results on val."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer.errors import BadValue
from transfer.lightning import pl
from transfer.run_files import BEST
from transfer.training.metrics import metric_names

LOWER_IS_BETTER = ("loss", "ece")
_WORST = (-math.inf, -math.inf)


def choose_monitor(monitor: str | None, num_classes: int, multilabel: bool) -> str:
    """Return the name of the metric that chooses the best validation: `monitor`, or `map` or `top1` by default.

    Raises:
        BadValue: the run does not measure it.
    """
    if monitor is None:
        return "map" if multilabel else "top1"
    names = ("loss", *metric_names(num_classes, multilabel))
    if monitor not in names:
        raise BadValue(
            f"`monitor`={monitor}: not measured with {num_classes} classes and `multilabel`={multilabel} (allowed:"
            f" {', '.join(names)})"
        )
    return monitor


def goodness(metrics: Mapping[str, Any], monitor: str) -> tuple[float, float]:
    """Return a key by which validations are compared: better ones are larger, and of equal ones that of lower loss.

    Args:
        metrics: metrics on val, named `val/<name>`.
        monitor: name of the metric that counts.
    """
    value, loss = float(metrics[f"val/{monitor}"]), float(metrics.get("val/loss", 0.0))
    value = -value if monitor in LOWER_IS_BETTER else value
    return (-math.inf if math.isnan(value) else value), -loss


class BestCheckpoint(pl.callbacks.Checkpoint):
    """Keeps `best.ckpt`: the best validation by `goodness`; of equals the later one, whose learning rate is lower.

    Args:
        folder: where it is written.
        monitor: name of the metric that counts.
    """

    def __init__(self, folder: str | Path, monitor: str) -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.best = _WORST

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if is_validation_of_fit(trainer) and (found := goodness(trainer.callback_metrics, self.monitor)) >= self.best:
            self.best = found
            trainer.save_checkpoint(self.folder / BEST)

    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        value, minus_loss = state_dict["best"]
        self.best = value, minus_loss


class StartValidation(pl.Callback):
    """Validates the network that a run starts with, too: `best.ckpt` is that one if training makes none better."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > 0:
            return
        loop = trainer.fit_loop.epoch_loop.val_loop
        trainer.validating = True  # as Lightning's own loop does around it
        loop.setup_data()
        loop.run()
        trainer.training = True


class EarlyStop(pl.Callback):
    """Ends a run after some validations in a row without a better one by `goodness`; a resumed run stays ended.

    Attributes:
        stopped_epoch: the epoch at which it ended the run, from 1; None if it did not.

    Args:
        monitor: name of the metric that counts.
        patience: how many such validations end the run.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        self.monitor = monitor
        self.patience = patience
        self.best = _WORST
        self.waited = 0
        self.stopped_epoch: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.stopped_epoch is not None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not is_validation_of_fit(trainer):
            return
        found = goodness(trainer.callback_metrics, self.monitor)
        is_better = found > self.best
        self.best, self.waited = (found, 0) if is_better else (self.best, self.waited + 1)
        if self.waited >= self.patience and self.stopped_epoch is None:
            self.stopped_epoch = trainer.current_epoch + 1
            trainer.should_stop = True
            if trainer.is_global_zero:
                print(f"early stopping in epoch {self.stopped_epoch}: {self}", flush=True)

    def __str__(self) -> str:
        return f"no better val {self.monitor} in {self.patience} validations"

    def outcome(self) -> dict[str, Any] | None:
        """Return why and where it ended the run, or None."""
        if self.stopped_epoch is None:
            return None
        return {"epoch": self.stopped_epoch, "monitor": self.monitor, "patience": self.patience}

    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self.best), "waited": self.waited, "stopped_epoch": self.stopped_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        value, minus_loss = state_dict["best"]
        self.best = value, minus_loss
        self.waited, self.stopped_epoch = state_dict["waited"], state_dict["stopped_epoch"]


def is_validation_of_fit(trainer: pl.Trainer) -> bool:
    """Return whether a validation belongs to the training, not to its sanity check or to `trainer.validate`."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking
