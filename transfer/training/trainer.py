"""Lightning's Trainer for a configuration: callbacks, loggers, the learning-rate finder."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.config.schema import FinetuneConfig, TrainerConfig
from transfer.errors import BadValue, UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import Logger

    from datamodules.datamodule import DataModule
    from transfer.training.callbacks import EpochLog
    from transfer.training.module import TransferModule


def prepare_process(config: FinetuneConfig) -> int:
    """Seed this process, and return how many processes will train together.

    Raises:
        UserError: Lightning refuses a field of the Trainer.
    """
    import pytorch_lightning as pl
    import torch

    quiet_lightning()
    num_processes = build_trainer(config, loggers=[], callbacks=[]).world_size
    torch.set_float32_matmul_precision("high")
    pl.seed_everything(config.seed, verbose=False)
    return num_processes


def build_fit_trainer(config: FinetuneConfig, run_dir: Path, log: EpochLog, loggers: list[Logger]) -> pl.Trainer:
    """Return the Trainer that trains a run, with everything that happens besides its steps.

    Raises:
        UserError: Lightning refuses a field.
    """
    from pytorch_lightning.callbacks import LearningRateMonitor

    callbacks = build_callbacks(config, run_dir, log)
    if loggers:
        callbacks.append(LearningRateMonitor("step"))
    trainer = build_trainer(config, loggers, callbacks)
    if trainer.world_size > 1 and config.freeze.startswith("until") and config.trainer.strategy in ("auto", "ddp"):
        # While it is frozen, the backbone's parameters take no part in the backward pass.
        strategy = replace(config.trainer, strategy="ddp_find_unused_parameters_true")
        trainer = build_trainer(replace(config, trainer=strategy), loggers, callbacks)
    return trainer


def resolve_precision(trainer: TrainerConfig) -> Any:
    """Return Lightning's name of the precision: `auto` is bf16-mixed where the GPU computes it, else 32-true."""
    import torch

    if trainer.precision != "auto":
        return trainer.precision
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if bf16 and trainer.accelerator in ("auto", "gpu", "cuda") else "32-true"


def quiet_lightning() -> None:
    """Keeps Lightning from announcing hardware, tips and what the run's own lines already say; warnings stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # The number of workers follows the cores; a run's folder holds config.yaml before the first checkpoint; a machine
    # with SLURM's commands is no job of it; the last is a deprecation that Lightning has to follow.
    for message in (
        ".*does not have many workers",
        "Checkpoint directory .* exists",
        "The `srun` command is available",
        ".*isinstance.treespec",
    ):
        warnings.filterwarnings("ignore", message)


def build_callbacks(config: FinetuneConfig, run_dir: Path, log: EpochLog) -> list[pl.Callback]:
    """What a run does besides its steps, in the order in which it happens."""
    from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar

    from transfer.training.batch_norm import BatchNormCheck, BatchNormPolicy
    from transfer.training.callbacks import EMA, FinalValidation, FreezeBackbone
    from transfer.training.checkpointing import (
        LAST,
        BestCheckpoint,
        GracefulStop,
        LastCheckpoint,
        UnvalidatedCheckpoints,
    )
    from transfer.training.metrics import main_metric

    monitor = f"val/{main_metric(config.data.multilabel)}"
    validates = config.data.train_on == "train"
    callbacks: list[pl.Callback] = [FinalValidation()] if validates else []
    frozen_epochs = config.frozen_epochs()
    if frozen_epochs != 0:
        callbacks.append(FreezeBackbone(frozen_epochs))
    if config.ema_half_life is not None:
        callbacks.append(EMA(config.ema_half_life))
    callbacks += [BatchNormPolicy(config.bn), BatchNormCheck(), log]
    if config.early_stopping is not None:
        callbacks.append(
            EarlyStopping(monitor, mode="max", patience=config.early_stopping, check_on_train_epoch_end=False)
        )
    if shows_progress(config):
        callbacks.append(RichProgressBar(refresh_rate=10))  # each refresh waits for the device
    callbacks.append(GracefulStop(run_dir / LAST))
    if validates:
        return [*callbacks, BestCheckpoint(run_dir, monitor), LastCheckpoint(run_dir)]
    return [*callbacks, UnvalidatedCheckpoints(run_dir, config.trainer.check_val_every_n_epoch or 1)]


def build_trainer(config: FinetuneConfig, loggers: list[Logger], callbacks: list[pl.Callback]) -> pl.Trainer:
    """Lightning's Trainer with the fields of the configuration.

    Raises:
        UserError: Lightning refuses a field.
    """
    import pytorch_lightning as pl
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from transfer.training.checkpointing import AtomicCheckpointIO

    options = asdict(config.trainer)
    options["precision"] = resolve_precision(config.trainer)
    if config.data.train_on == "trainval":
        options["limit_val_batches"] = 0
    options["enable_progress_bar"] = shows_progress(config) and bool(callbacks)
    try:
        return pl.Trainer(
            **options,
            plugins=[AtomicCheckpointIO()],
            logger=loggers,
            callbacks=callbacks,
            enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise BadValue(f"`trainer`: {error}") from None


def shows_progress(config: FinetuneConfig) -> bool:
    """Whether to draw a progress bar: as asked, else on a terminal only."""
    asked = config.trainer.enable_progress_bar
    return sys.stdout.isatty() if asked is None else asked


def build_loggers(config: FinetuneConfig, run_dir: Path, fingerprint: dict[str, str]) -> list[Logger]:
    """The logger that was asked for on top of metrics.csv.

    Raises:
        UserError: its package is not installed.
    """
    try:
        if config.logger == "tensorboard":
            from pytorch_lightning.loggers import TensorBoardLogger

            return [TensorBoardLogger(run_dir, name="", version="tensorboard")]
        if config.logger == "wandb":
            from pytorch_lightning.loggers import WandbLogger

            project = os.environ.get("WANDB_PROJECT", "efficientnet-transfer")
            settings = {**config.to_dict(), "fingerprint": fingerprint, "run_dir": str(run_dir)}
            return [WandbLogger(save_dir=run_dir, project=project, config=settings)]
    except ImportError:
        raise UserError(
            f"`logger`={config.logger}: package missing; run: pip install 'efficientnet-transfer[{config.logger}]'"
        ) from None
    return []


def find_lr(config: FinetuneConfig, module: TransferModule, data: DataModule) -> None:
    """Sets `module.lr` to what Lightning's finder suggests (Smith 2017): where the loss falls fastest."""
    from pytorch_lightning.tuner.tuning import Tuner

    from transfer.training.batch_norm import BatchNormPolicy
    from transfer.training.callbacks import FreezeBackbone

    callbacks: list[pl.Callback] = [BatchNormPolicy(config.bn)]
    if config.frozen_epochs() != 0:
        callbacks.insert(0, FreezeBackbone(config.frozen_epochs()))
    finder = Tuner(build_trainer(config, [], callbacks)).lr_find(module, datamodule=data)
    suggestion = finder.suggestion() if finder else None
    if suggestion is None:
        steps = len(finder.results["loss"]) if finder else 0
        raise UserError(f"`find_lr`: no learning rate found in {steps} steps (20 are too few); choose `lr` yourself")
    module.lr = suggestion
    print(f"learning-rate finder: {suggestion:.3g} (`optim.lr`={config.optim.lr:g} is not used)")
