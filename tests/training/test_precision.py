"""On a CPU that computes bfloat16, `auto` trains in it and evaluates in float32."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from transfer.config.schema import FinetuneConfig, TrainerConfig
from transfer.networks import bfloat16
from transfer.networks.classifier import Classifier
from transfer.training import precision
from transfer.training.module import TransferModule
from transfer.training.trainer import build_trainer


@pytest.fixture(autouse=True)
def native_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "computes_bf16", lambda device: device.type == "cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


class Seen(pl.Callback):
    """What the backbone's first convolution gave in each stage of a run."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.dtypes: dict[str, set[torch.dtype]] = getattr(self, "dtypes", {})
        self.trainer = trainer
        pl_module.backbone.stem.conv.register_forward_hook(self.keep)  # type: ignore[union-attr]

    def keep(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.dtypes.setdefault(self.trainer.state.stage.value, set()).add(output.dtype)


def test_training_steps_are_in_bfloat16_and_evaluation_is_in_float32(
    tiny_classifier: Classifier, random_images: Any
) -> None:
    config = FinetuneConfig(trainer=TrainerConfig(accelerator="cpu", devices=1, max_epochs=1))
    seen, module = Seen(), TransferModule(tiny_classifier)
    trainer = build_trainer(config, [], [seen], image_size=96)
    trainer.fit(module, random_images)
    trainer.test(module, random_images, verbose=False)
    build_trainer(config, [], [seen]).test(module, random_images, verbose=False)
    low, full = {torch.bfloat16}, {torch.float32}
    assert seen.dtypes == {"train": low, "validate": full, "test": full}
    assert trainer.precision == "bf16-mixed"
    assert {p.dtype for p in module.parameters()} == full


@pytest.mark.parametrize(
    ("fields", "image_size", "expected"),
    [
        ({}, 64, True),
        ({"accelerator": "auto"}, 224, True),
        ({}, 63, False),  # not measured
        ({"precision": "32-true"}, 224, False),
        ({"precision": "bf16-mixed"}, 224, False),  # Lightning's own, in evaluation too
        ({"accelerator": "gpu"}, 224, False),
    ],
)
def test_auto_is_bfloat16_where_it_is_measured_to_win(fields: dict[str, str], image_size: int, expected: bool) -> None:
    assert precision.trains_in_bf16(TrainerConfig(**{"accelerator": "cpu", **fields}), image_size) is expected


def test_a_cpu_without_bfloat16_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "computes_bf16", lambda device: False)
    assert not precision.trains_in_bf16(TrainerConfig(accelerator="cpu"), 224)
    assert precision.resolve_precision(TrainerConfig(accelerator="cpu")) == "32-true"


def test_auto_trains_in_bfloat16_on_a_gpu_and_tests_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(precision, "computes_bf16", lambda device: device.type == "cuda")
    assert precision.resolve_precision(TrainerConfig()) == "bf16-mixed"
    assert precision.resolve_precision(TrainerConfig(), trains=False) == "32-true"
    assert precision.resolve_precision(TrainerConfig(precision="16-mixed"), trains=False) == "16-mixed"
