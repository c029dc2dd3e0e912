"""The learning-rate finder as a function: it returns the rate, and prints and changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pytorch_lightning.tuner.lr_finder import _LRFinder

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


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_finder_takes_all_its_steps_however_short_the_run_is(
    tiny_classifier: Classifier,
    random_images: RandomImages,
    monkeypatch: pytest.MonkeyPatch,
    accumulate: int,
) -> None:
    quiet_lightning()
    finders = []

    def suggest(finder: _LRFinder) -> float:
        finders.append(finder)
        return 0.1

    monkeypatch.setattr(_LRFinder, "suggestion", suggest)
    monkeypatch.setattr("pytorch_lightning.tuner.lr_finder._LRCallback.on_train_batch_end", keep_loss)
    trainer = TrainerConfig(
        accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=accumulate, enable_progress_bar=False
    )
    assert find_lr(FinetuneConfig(trainer=trainer), TransferModule(tiny_classifier), random_images) == 0.1
    rates = finders[0].results["lr"]
    assert len(rates) == 100 and rates[0] < 1e-7 and rates[-1] == pytest.approx(1.0, rel=0.25)


def keep_loss(callback: Any, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
    """In place of the callback's own, which ends the sweep where the loss grows."""
    if (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0:
        callback.losses.append(outputs["loss"].item())
