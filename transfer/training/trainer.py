"""Lightning's Trainer for a configuration, with the callbacks and loggers of a run."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.lightning import MisconfigurationException, pl
from transfer.run_files import LAST
from transfer.training.batch_norm import BatchNormCheck
from transfer.training.callbacks import EMA, EpochLog, FinalValidation, FreezeBackbone, SharedFolder
from transfer.training.checkpointing import (
    AtomicCheckpointIO,
    EpochEndResume,
    LastCheckpoint,
    UnvalidatedCheckpoints,
)
from transfer.training.interruption import GracefulStop
from transfer.training.machines import refuse_missing_launcher, refuse_restarts_that_hang
from transfer.training.precision import BF16TrainingSteps, resolve_precision, trains_in_bf16
from transfer.training.progress import ProgressBar
from transfer.training.progressive import Progressive
from transfer.training.run_length import LengthReport
from transfer.training.selection import BestCheckpoint, EarlyStop, StartValidation


def prepare_process(config: FinetuneConfig) -> int:
    """Prepare this process for a run: check Lightning's fields, and set log levels, matmul precision and seed.

    Returns:
        The number of processes of the run.

    Raises:
        UserError: Lightning refuses a field of `config.trainer`.
    """
    quiet_lightning()
    num_processes = build_trainer(config, loggers=[], callbacks=[]).world_size
    torch.set_float32_matmul_precision("high")
    pl.seed_everything(config.seed, verbose=False)
    return num_processes


def quiet_lightning() -> None:
    """Keep Lightning from announcing hardware, tips and what the run's own lines already say; warnings stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The number of workers follows the cores; a run's folder holds config.yaml before the first checkpoint; a machine
    # with SLURM's commands need not be in a SLURM job; the last is a deprecation that Lightning has to follow.
    for message in (
        ".*does not have many workers",
        "Checkpoint directory .* exists",
        "The `srun` command is available",
        ".*isinstance.treespec",
    ):
        warnings.filterwarnings("ignore", message)


def build_fit_trainer(
    config: FinetuneConfig,
    image_size: int,
    run_dir: Path,
    log: EpochLog,
    loggers: list[pl.loggers.Logger],
    watchers: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """Return the Trainer that fits a run, with all its callbacks.

    Args:
        config: the run's configuration.
        image_size: side of the training images, in pixels.
        run_dir: the run's folder, for checkpoints.
        log: writes the run's `metrics.csv`.
        loggers: where Lightning logs to besides.
        watchers: callbacks that only look on, after the log has been written.

    Raises:
        UserError: Lightning refuses a field of `config.trainer`.
    """
    callbacks = [*build_callbacks(config, run_dir, log), *watchers]
    if loggers:
        callbacks.append(pl.callbacks.LearningRateMonitor("step"))
    trainer = build_trainer(config, loggers, callbacks, image_size)
    if trainer.world_size > 1 and config.freeze.startswith("until") and config.trainer.strategy in ("auto", "ddp"):
        # While the backbone is frozen, its parameters take no part in the backward pass.
        finds_unused = replace(config.trainer, strategy="ddp_find_unused_parameters_true")
        return build_trainer(replace(config, trainer=finds_unused), loggers, callbacks, image_size)
    return trainer


def build_callbacks(config: FinetuneConfig, run_dir: Path, log: EpochLog) -> list[pl.Callback]:
    """Return what a run does besides its steps, in the order in which it happens. The module adds its BatchNorm policy.

    Args:
        config: the run's configuration.
        run_dir: the run's folder, for checkpoints.
        log: writes the run's `metrics.csv`.
    """
    validates = config.data.train_on == "train"
    callbacks: list[pl.Callback] = [
        *build_progress(config, log.monitor),
        SharedFolder(run_dir),
        EpochEndResume(),
        *([FinalValidation()] if validates else []),
    ]
    callbacks += _freezing(config)
    if config.ema_half_life is not None:
        callbacks.append(EMA(config.ema_half_life))
    if config.progressive is not None:
        callbacks.append(Progressive())
    if config.bn != "recompute":  # evaluation then uses other running statistics
        callbacks.append(BatchNormCheck())
    callbacks += [LengthReport(config.data.batch_size), log]
    if config.method == "lpft" and validates:
        callbacks.append(StartValidation())
    if config.early_stopping is not None:
        callbacks.append(EarlyStop(log.monitor, config.early_stopping))
    callbacks.append(GracefulStop(run_dir / LAST))
    if validates:
        return [*callbacks, BestCheckpoint(run_dir, log.monitor), LastCheckpoint(run_dir)]
    return [*callbacks, UnvalidatedCheckpoints(run_dir, config.trainer.check_val_every_n_epoch or 1)]


def _freezing(config: FinetuneConfig) -> list[pl.Callback]:
    num_epochs = config.frozen_epochs()
    return [] if num_epochs == 0 else [FreezeBackbone(num_epochs)]


def build_trainer(
    config: FinetuneConfig,
    loggers: list[pl.loggers.Logger],
    callbacks: list[pl.Callback],
    image_size: int | None = None,
    *,
    trains: bool = True,
) -> pl.Trainer:
    """Return Lightning's Trainer with the fields of the configuration.

    Args:
        config: the run's configuration.
        loggers: loggers of its own.
        callbacks: callbacks of its own.
        image_size: side of the images that it trains on, in pixels; None if it is not known or it does not train.
        trains: whether it trains. If not, the precision `auto` is float32 on every device.

    Raises:
        UserError: Lightning refuses a field of `config.trainer`.
    """
    options = asdict(config.trainer)
    plugins: list[Any] = [AtomicCheckpointIO()]
    if image_size is not None and trains_in_bf16(config.trainer, image_size):
        plugins.append(BF16TrainingSteps())
        del options["precision"]
    else:
        options["precision"] = resolve_precision(config.trainer, trains)
    if config.data.train_on == "trainval":
        options["limit_val_batches"] = 0
    options["enable_progress_bar"] = any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks)
    try:
        trainer = pl.Trainer(
            **options,
            plugins=plugins,
            logger=loggers,
            callbacks=callbacks,
            enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise BadValue(f"`trainer`: {error}") from None
    refuse_missing_launcher(trainer.strategy, config.trainer.num_nodes)
    refuse_restarts_that_hang()
    return trainer


def build_progress(config: FinetuneConfig, monitor: str | None = None) -> list[pl.Callback]:
    """Return the live line of a run, if stderr is a terminal or the configuration asks for it.

    Args:
        config: the run's configuration.
        monitor: name of the val metric that it shows.
    """
    asked = config.trainer.enable_progress_bar
    return [ProgressBar(monitor)] if asked or (asked is None and sys.stderr.isatty()) else []
