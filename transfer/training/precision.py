"""The precision of a run's computations."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from transfer.config.schema import TrainerConfig
from transfer.lightning import pl
from transfer.networks.bfloat16 import computes_bf16, trains_faster_in_bf16


class BF16TrainingSteps(pl.plugins.MixedPrecision):
    """bf16 autocast in training steps; validation, test and prediction are in float32."""

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")

    @contextmanager
    def _in_float32(self) -> Generator[None, None, None]:
        yield

    val_step_context = test_step_context = predict_step_context = _in_float32


def resolve_precision(trainer: TrainerConfig, trains: bool = True) -> Any:
    """Return Lightning's name of the precision; `auto` trains in bf16-mixed on a GPU that computes it."""
    if trainer.precision != "auto":
        return trainer.precision
    on_gpu = trains and torch.cuda.is_available() and trainer.accelerator in ("auto", "gpu", "cuda")
    return "bf16-mixed" if on_gpu and computes_bf16(torch.device("cuda")) else "32-true"


def trains_in_bf16(trainer: TrainerConfig, image_size: int) -> bool:
    """Return whether `auto` stands for `BF16TrainingSteps`: on a CPU that computes bfloat16 natively, if it wins there.

    Args:
        trainer: fields of the Trainer.
        image_size: side of the training images, in pixels.
    """
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.accelerator.is_available())
    return trainer.precision == "auto" and on_cpu and trains_faster_in_bf16(torch.device("cpu"), image_size)
