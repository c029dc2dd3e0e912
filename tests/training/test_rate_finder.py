"""The sweep over learning rates: what it measures, the rate it suggests, and that it leaves everything as it was."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from tests.conftest import RandomImages
from transfer.config.schema import FinetuneConfig, TrainerConfig
from transfer.errors import BadValue, Diverged
from transfer.networks.classifier import Classifier
from transfer.networks.efficientnet import B0, EfficientNet
from transfer.networks.heads import LinearHead
from transfer.networks.layers import LayerSettings
from transfer.networks.rows import Variant
from transfer.training import rate_finder
from transfer.training.module import TransferModule
from transfer.training.rate_finder import HIGHEST, LOWEST, NUM_STEPS, RateCurve, sweep_rates
from transfer.training.trainer import quiet_lightning

RATES = np.geomspace(LOWEST, HIGHEST, NUM_STEPS)


def config(**changes: Any) -> FinetuneConfig:
    trainer = TrainerConfig(accelerator="cpu", devices=1, max_epochs=1, enable_progress_bar=False, **changes)
    return FinetuneConfig(trainer=trainer)


def curve(fall: Callable[[np.ndarray], np.ndarray], noise: float = 0.05, seed: int = 0) -> RateCurve:
    """A loss of 2.3 less `fall` of the rates, with noise."""
    return RateCurve(RATES, 2.3 - fall(RATES) + noise * np.random.default_rng(seed).standard_normal(len(RATES)))


def learning(rates: np.ndarray, best: float = 0.1) -> np.ndarray:
    """What is learned at each rate: most at `best`; at ten times that rate the loss is far above its start."""
    return 1.6 / (1 + (best / 10 / rates) ** 1.5) - 0.06 * (rates / best) ** 2


# The rate


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("best", [1e-3, 0.1])
def test_the_rate_lies_where_the_loss_falls(best: float, seed: int) -> None:
    rate = curve(lambda rates: learning(rates, best), seed=seed).suggestion()
    assert best / 20 < rate < best / 1.5
    assert rate == float(f"{rate:.3g}")


def test_the_smoothed_curve_does_not_lag() -> None:
    found = curve(learning, noise=0.0)
    lowest = int((2.3 - learning(RATES)).argmin())
    assert abs(int(found.smooth.argmin()) - lowest) <= 2


@pytest.mark.parametrize("seed", range(20))
def test_of_noise_no_rate_is_suggested(seed: int) -> None:
    with pytest.raises(BadValue, match=r"`find_lr`.*stays at.*choose `optim.lr` yourself"):
        curve(np.zeros_like, noise=0.1, seed=seed).suggestion()


def test_a_loss_that_only_rises_is_refused() -> None:
    with pytest.raises(Diverged, match=r"`find_lr`: the training loss rises"):
        curve(lambda rates: -4 * (rates / HIGHEST) ** 0.5).suggestion()


@pytest.mark.parametrize("losses", [[np.nan], [2.3, np.inf], [2.3] * 30 + [np.nan]])
def test_a_loss_that_is_no_number_is_refused(losses: list[float]) -> None:
    with pytest.raises(Diverged, match=r"`find_lr`: the training loss is"):
        RateCurve(RATES[: len(losses)], np.array(losses)).suggestion()


# The sweep


def smooth_classifier() -> Classifier:
    """A network without dropout, so that its steps can be repeated by hand."""
    backbone = EfficientNet(Variant("tiny", 0.25, 0.3, 32, 0.0, 0, 0, B0), LayerSettings(), stochastic_depth_prob=0.0)
    return Classifier(backbone, LinearHead(backbone.num_features, 3, 0.0), 3)


def test_each_loss_is_that_of_a_step_at_the_next_rate(
    random_images: RandomImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_lightning()
    monkeypatch.setattr(rate_finder, "NUM_STEPS", 10)
    classifier = smooth_classifier()
    network = copy.deepcopy(classifier).train()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.0
    groups = [
        {"params": list(network.head.parameters()), "share": 1.0},
        {"params": list(network.backbone.parameters()), "share": 0.5},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)
    rates, losses = np.geomspace(LOWEST, HIGHEST, 10), []
    for step, rate in enumerate(rates):
        images, targets = random_images.train_batches.batches[step % 4]
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        loss = nn.functional.cross_entropy(network(images), targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    module = TransferModule(classifier, weight_decay=0.0, backbone_lr_factor=0.5)
    found = sweep_rates(config(), module, random_images)
    assert found.rates == pytest.approx(rates[: len(found.rates)])
    assert len(found.losses) >= 5
    assert found.losses == pytest.approx(losses[: len(found.losses)], rel=1e-3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_sweep_takes_all_its_steps_however_short_the_run_is(
    tiny_classifier: Classifier, random_images: RandomImages, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    quiet_lightning()
    monkeypatch.setattr(rate_finder, "HIGHEST", 1e-3)
    monkeypatch.setattr(rate_finder, "NUM_STEPS", 15)
    short = config(accumulate_grad_batches=accumulate, max_steps=2)
    found = sweep_rates(short, TransferModule(tiny_classifier), random_images)
    assert len(found.rates) == 15 and (found.rates[0], found.rates[-1]) == pytest.approx((1e-6, 1e-3))
    assert np.isfinite(found.losses).all()


def test_the_sweep_ends_where_the_loss_is_far_above_its_start(
    tiny_classifier: Classifier, random_images: RandomImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_lightning()
    monkeypatch.setattr(rate_finder, "HIGHEST", 1e6)
    monkeypatch.setattr(rate_finder, "NUM_STEPS", 40)
    found = sweep_rates(config(), TransferModule(tiny_classifier), random_images)
    assert len(found.rates) < 40 and not found.losses[-5:].mean() <= 2 * found.start


@pytest.mark.parametrize("bn", ["adapt", "frozen"])
def test_the_sweep_leaves_no_trace(
    tiny_classifier: Classifier, random_images: RandomImages, monkeypatch: pytest.MonkeyPatch, bn: str
) -> None:
    quiet_lightning()
    monkeypatch.setattr(rate_finder, "NUM_STEPS", 6)

    def state(module: TransferModule) -> dict[str, Any]:
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        return {
            "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
            "rate": (module.lr, module.schedule, module.warmup_epochs),
            "modes": [m.training for m in module.modules()],
            "momenta": [norm.momentum for norm in norms],
            "learns": [p.requires_grad for p in module.parameters()],
            "gradients": [p.grad for p in module.parameters()],
            "losses": len(module.train_scores),
            "loader": vars(random_images).get("trainer"),
        }

    module = TransferModule(tiny_classifier, lr=0.02, bn=bn)
    weights, before = copy.deepcopy(module.state_dict()), state(module)
    sweep_rates(config(), module, random_images)
    assert state(module) == before
    torch.testing.assert_close(module.state_dict(), weights, rtol=0, atol=0)


@pytest.mark.parametrize(("freeze", "moves"), [("backbone", False), ("until-epoch 1", True), ("none", True)])
def test_a_backbone_that_never_learns_is_frozen_in_the_sweep_too(
    tiny_classifier: Classifier, random_images: RandomImages, monkeypatch: pytest.MonkeyPatch, freeze: str, moves: bool
) -> None:
    quiet_lightning()
    monkeypatch.setattr(rate_finder, "NUM_STEPS", 3)
    stems = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            stems.append(next(pl_module.parameters()).clone())

        on_train_end = on_train_start

    frozen = FinetuneConfig(freeze=freeze, trainer=config().trainer)
    sweep_rates(frozen, TransferModule(tiny_classifier), random_images, [Watch()])
    assert torch.equal(*stems) is not moves
