"""The learning-rate finder as a function: it returns the rate, and prints and changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.conftest import RandomImages
from transfer.config.schema import FinetuneConfig, OptimConfig, TrainerConfig
from transfer.networks.classifier import Classifier
from transfer.training.module import TransferModule
from transfer.training.trainer import find_lr, quiet_lightning


def test_the_finder_returns_a_rate_and_leaves_the_module_alone(
    tiny_classifier: Classifier, random_images: RandomImages, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_lightning()
    module = TransferModule(tiny_classifier, lr=0.02, schedule="constant", warmup_epochs=0)
    before = copy.deepcopy(module.state_dict())
    config = FinetuneConfig(
        optim=OptimConfig(schedule="constant"),
        trainer=TrainerConfig(accelerator="cpu", devices=1, max_epochs=30, enable_progress_bar=False),
    )
    rate = find_lr(config, module, random_images)
    assert 1e-8 <= rate <= 1.0 and rate != 0.02
    assert module.lr == 0.02
    assert "learning-rate" not in capsys.readouterr().out
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
