"""What a run does besides its steps: freezing, weight averaging, a last validation, the log of epochs."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Mapping
from itertools import chain, compress
from pathlib import Path
from typing import Any

import torch

from transfer.errors import BadValue
from transfer.files import read_rows, write_text
from transfer.lightning import pl
from transfer.networks.layers import fold_norms
from transfer.training.batch_norm import BatchNormCheck, backbone_of
from transfer.training.machines import refuse_separate_folders
from transfer.training.module import TransferModule
from transfer.training.run_length import name_epoch, total_steps
from transfer.training.selection import goodness, is_validation_of_fit


class FreezeBackbone(pl.Callback):
    """Trains all but the backbone for a while: it gets no gradient, and its BatchNorm is in eval mode, and folded.

    It works on TransferModule and on any LightningModule that has a `backbone` and whose optimizer holds all parameters
    from the start. Whether the backbone is frozen follows from the epoch, so a resumed run goes on as an uninterrupted
    one.

    Args:
        num_epochs: epochs after which the backbone learns; None keeps it frozen.

    Raises:
        UserError: when training starts, if the module has no `backbone`.
    """

    def __init__(self, num_epochs: int | None) -> None:
        self.num_epochs = num_epochs
        self.frozen = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # A backbone that never learns is frozen before DDP looks for parameters to synchronise; one that will learn
        # later must be seen by it.
        if stage == "fit" and self.num_epochs is None:
            backbone_of(pl_module).requires_grad_(False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fold_norms(backbone_of(pl_module))
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it when it resumes in mid-epoch

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fold_norms(backbone_of(pl_module), False)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        backbone = backbone_of(pl_module)
        freeze = self.num_epochs is None or trainer.current_epoch < self.num_epochs
        if freeze:
            backbone.requires_grad_(False)
            backbone.eval()
        elif self.frozen or not any(p.requires_grad for p in backbone.parameters()):
            backbone.requires_grad_(True)
            backbone.train()
        self.frozen = freeze

    def state_dict(self) -> dict[str, Any]:
        return {"frozen": self.frozen, "num_epochs": self.num_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.frozen = state_dict["frozen"]
        if state_dict["num_epochs"] != self.num_epochs:
            raise BadValue(
                f"`freeze`: the checkpoint's run froze {state_dict['num_epochs']} epochs, this one {self.num_epochs}"
            )


class SharedFolder(pl.Callback):
    """Checks, as soon as a run's processes are connected, that all of them see its folder.

    Args:
        folder: the run's folder.

    Raises:
        UserError: when training starts, in every process, if they do not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_separate_folders(self.folder, "out_dir")


class EMA(pl.callbacks.WeightAveraging):
    """Validates, tests and saves an exponential moving average of weights and BatchNorm statistics.

    The decay follows from the length of the run; with a fixed 0.9999 the average is still the initial network when a
    short run ends. It ramps up as TensorFlow's does, min(decay, (1 + n) / (10 + n)) at update n.

    Args:
        half_life: steps after which a weight's share in the average has halved, as a fraction of the run, in (0, 1).

    Raises:
        UserError: `half_life` is out of range, or, when training starts, nobody knows the length of the run.
    """

    def __init__(self, half_life: float) -> None:
        if not 0.0 < half_life < 1.0:
            raise BadValue(f"`ema_half_life`={half_life}: allowed is 0 < ema_half_life < 1, a fraction of the run")
        super().__init__(use_buffers=True)
        self.half_life = half_life
        self.decay = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:  # its count of updates on the device would be read once for each parameter
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = total_steps(trainer)
        if math.isinf(steps):
            raise BadValue("`ema_half_life` is a fraction of the run, whose length nobody knows: give `max_steps`")
        self.decay = 0.5 ** (1.0 / (self.half_life * steps))

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step <= self._latest_update_step:  # gradients are still accumulated
            return
        self._latest_update_step = trainer.global_step
        assert self._average_model is not None
        n = int(self._average_model.n_averaged)
        weight = 1.0 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0
        average, current = (list(chain(m.parameters(), m.buffers())) for m in (self._average_model.module, pl_module))
        moving = [tensor.is_floating_point() for tensor in average]
        torch._foreach_lerp_(list(compress(average, moving)), list(compress(current, moving)), weight)
        for counter, value in zip(average, current, strict=True):
            if not counter.is_floating_point():
                counter.copy_(value)
        self._average_model.n_averaged += 1


def is_end_of_run(trainer: pl.Trainer) -> bool:
    """Return whether the epoch that ends is the last one, for whatever reason."""
    return (
        trainer.should_stop
        or trainer.global_step == trainer.max_steps
        or trainer.current_epoch + 1 == trainer.max_epochs
    )


class FinalValidation(pl.Callback):
    """Validates once more if `max_steps` or `max_time` ends a run between validations, so that its end counts too."""

    def __init__(self) -> None:
        self.validated_step = -1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated_step = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if is_end_of_run(trainer) and self.validated_step != trainer.global_step:
            trainer.validating = True  # as Lightning's own loop does around it
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def state_dict(self) -> dict[str, Any]:
        return {"validated_step": self.validated_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validated_step = state_dict["validated_step"]


class EpochLog(pl.Callback):
    """Writes a row of `metrics.csv` and a line on the terminal for each validation, and measures the training speed.

    If nothing is validated, it does so for each epoch. It needs a TransferModule.

    Attributes:
        num_images: training images of all processes so far.
        seconds: training time so far, without validation.

    Args:
        path: the table; a resumed run continues it.
        monitor: name of the metric that chooses the best validation.
        show_best: is called after each validation with the val metrics of the best one so far, and the step,
            which Lightning counts from 0.
    """

    def __init__(
        self,
        path: Path,
        monitor: str = "top1",
        show_best: Callable[[Mapping[str, float], int], None] = lambda metrics, step: None,
    ) -> None:
        self.path = path
        self.show_best = show_best
        self.monitor = monitor
        self.num_images = 0
        self.seconds = 0.0
        self._started: float | None = None
        self._rows: list[dict[str, Any]] = []

    @property
    def images_per_second(self) -> float | None:
        """Training images of all processes per second, validation not counted; None before the first ones."""
        return self.num_images / self.seconds if self.seconds else None

    def state_dict(self) -> dict[str, Any]:
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return {"num_images": self.num_images, "seconds": self.seconds + running, "rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_images, self.seconds = state_dict["num_images"], state_dict["seconds"]
        # Checkpoints of earlier versions have no rows: those of the table, also of steps that are taken again.
        self._rows = state_dict["rows"] if "rows" in state_dict else [*read_rows(self.path)]

    def best_metrics(self) -> dict[str, float]:
        """Return the val metrics of `best.ckpt`: of the best row by `goodness`, the last of equals; none before it."""
        validated = [row for row in self._rows if f"val/{self.monitor}" in row]
        best: dict[str, Any] = max(reversed(validated), key=lambda row: goodness(row, self.monitor), default={})
        return {k.removeprefix("val/"): float(v) for k, v in best.items() if k.startswith("val/")}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._rows = [row for row in self._rows if int(row["step"]) <= trainer.global_step]
        self._started = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.num_images += len(batch[0]) * trainer.world_size

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause()

    def _pause(self) -> None:
        if self._started is not None:
            self.seconds += time.perf_counter() - self._started
            self._started = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        if not is_validation_of_fit(trainer):
            return
        self._started = time.perf_counter()
        # On every rank; before the first step there is none.
        self._log(trainer, pl_module.train_scores.compute() if trainer.global_step else {"train/loss": math.nan})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        # A run that resumes at the end of this epoch has logged it before.
        if not trainer.enable_validation and len(pl_module.train_scores):
            self._pause()
            self._started = time.perf_counter()
            self._log(trainer, pl_module.train_scores.compute())

    def _log(self, trainer: pl.Trainer, trained: Mapping[str, float]) -> None:
        values = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        epoch = trainer.current_epoch + 1 if trainer.global_step else 0
        row = {
            "epoch": epoch,
            "step": trainer.global_step,
            "lr": _head_lr(trainer),
            "train/loss": trained["train/loss"],
            "train/top1": trained.get("train/top1"),
            **values,
            "images_per_second": round(self.images_per_second or 0.0, 1),
            **next((c.accuracies for c in trainer.callbacks if isinstance(c, BatchNormCheck)), {}),  # type: ignore[attr-defined]
        }
        self._rows.append(row)
        if not trainer.is_global_zero:
            return
        table = io.StringIO()
        names = dict.fromkeys(name for each in self._rows for name in each)
        measured = [name for name in names if any(each.get(name) is not None for each in self._rows)]
        writer = csv.DictWriter(table, fieldnames=measured, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.path, table.getvalue())
        figures = "".join(f"  {name.removeprefix('val/')} {value:.4f}" for name, value in values.items())
        loss = f"  train loss {trained['train/loss']:.4f}" if trainer.global_step else ""
        speed = f"  ({self.images_per_second or 0:.0f} images/s)" if trainer.global_step else ""
        if values:
            self.show_best(self.best_metrics(), max(trainer.global_step - 1, 0))
        print(f"{name_epoch(trainer, epoch)}{loss}{'  val:' if values else ''}{figures}{speed}", flush=True)


def _head_lr(trainer: pl.Trainer) -> float:
    groups = trainer.optimizers[0].param_groups
    return next((g["lr"] for g in groups if g.get("name", "").startswith("head")), groups[-1]["lr"])
