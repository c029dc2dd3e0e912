"""SAM's step by hand, and that its second pass repeats the first one's randomness and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tests.conftest import RandomImages
from tests.training.test_callbacks import copy_state, interrupted_and_resumed
from transfer.networks.classifier import Classifier
from transfer.training.callbacks import EMA, FreezeBackbone
from transfer.training.module import TransferModule
from transfer.training.sam import SAM

Build = Callable[..., pl.Trainer]


def test_a_step_is_the_one_computed_by_hand() -> None:
    """A linear network with squared loss, whose gradient NumPy gives; weight decay is SGD's alone."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(5, 3)), generator.normal(size=5)
    w, b = generator.normal(size=3), generator.normal()
    rho, lr, momentum, decay = 0.3, 0.1, 0.9, 0.05

    weight, bias = nn.Parameter(torch.tensor(w)), nn.Parameter(torch.tensor(b, dtype=torch.float64))
    groups = [{"params": [weight], "weight_decay": decay}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = SAM(torch.optim.SGD(groups, lr=lr, momentum=momentum), rho)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ((torch.tensor(x) @ weight + bias - torch.tensor(y)) ** 2).sum()
        loss.backward()
        return loss

    def gradient(w: np.ndarray, b: float) -> tuple[np.ndarray, float]:
        error = x @ w + b - y
        return 2 * x.T @ error, 2 * error.sum()

    velocity_w, velocity_b = np.zeros(3), 0.0
    for _ in range(3):
        loss = optimizer.step(closure)
        assert loss.item() == pytest.approx(((x @ w + b - y) ** 2).sum())
        g_w, g_b = gradient(w, b)
        norm = np.sqrt((g_w**2).sum() + g_b**2)
        g_w, g_b = gradient(w + rho * g_w / norm, b + rho * g_b / norm)
        velocity_w, velocity_b = momentum * velocity_w + g_w + decay * w, momentum * velocity_b + g_b
        w, b = w - lr * velocity_w, b - lr * velocity_b
        np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-10)
        assert bias.item() == pytest.approx(b, rel=1e-10)


def test_parameters_without_a_gradient_stay_and_the_others_come_back_to_the_bit() -> None:
    used, frozen = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(4), requires_grad=False)
    before = used.detach().clone()
    optimizer = SAM(torch.optim.SGD([used, frozen], lr=1e-30), rho=0.7)
    optimizer.step(lambda: used.square().sum().backward())
    assert torch.equal(used, before) and frozen.grad is None


def test_without_a_gradient_nothing_happens_and_without_a_closure_it_says_so() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.SGD([parameter], lr=1.0), rho=0.1)
    assert optimizer.step(lambda: 3) == 3
    assert parameter.tolist() == [1.0, 1.0]
    with pytest.raises(TypeError, match="needs the closure"):
        optimizer.step()


def test_groups_and_state_are_the_wrapped_optimizers_also_after_loading() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.SGD([parameter], lr=0.1, momentum=0.9), rho=0.1)
    optimizer.step(lambda: parameter.square().sum().backward())
    again = SAM(torch.optim.SGD([parameter], lr=9.0, momentum=0.9), rho=0.1)
    again.load_state_dict(optimizer.state_dict())
    again.param_groups[0]["lr"] = 0.5
    assert again.optimizer.param_groups[0]["lr"] == 0.5
    assert torch.equal(again.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])


class Passes(pl.Callback):
    """What the head's dropout let through in each training pass, and BatchNorm's count of batches after each step."""

    def __init__(self) -> None:
        self.masks: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self.counts: list[int] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if layer.training:
                self.masks.append(output != 0)

        for layer in pl_module.modules():
            if isinstance(layer, nn.Dropout):
                layer.register_forward_hook(keep)
        pl_module.classifier.backbone.stem.register_forward_pre_hook(  # type: ignore[union-attr]
            lambda layer, inputs: self.inputs.append(inputs[0].clone()) if layer.training else None
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.counts.append(int(pl_module.classifier.backbone.stem.norm.num_batches_tracked))  # type: ignore[union-attr]


def fit(classifier: Classifier, data: pl.LightningDataModule, build_trainer: Build, **options: Any) -> TransferModule:
    torch.manual_seed(5)
    module = TransferModule(classifier, lr=0.05, mixup_alpha=0.4, **options)
    trainer = build_trainer(max_epochs=1)
    trainer.fit(module, data)
    assert trainer.global_step == 4
    return module


def fresh(classifier: Classifier, state: dict[str, Tensor]) -> Classifier:
    classifier.load_state_dict(state)
    return classifier


def test_both_passes_mix_and_drop_the_same_and_statistics_move_once(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    passes = Passes()
    module = TransferModule(tiny_classifier, lr=0.05, mixup_alpha=0.4, sam_rho=0.5)
    build_trainer(passes, max_epochs=1).fit(module, random_images)
    assert passes.counts == [1, 2, 3, 4]
    assert len(passes.inputs) == len(passes.masks) == 8
    for first, second in zip(passes.inputs[::2], passes.inputs[1::2], strict=True):
        assert torch.equal(first, second)
    for first, second in zip(passes.masks[::2], passes.masks[1::2], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(passes.masks[0], passes.masks[2])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_vanishing_neighbourhood_leaves_the_base_optimizer(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build, precision: str
) -> None:
    start = {name: tensor.clone() for name, tensor in tiny_classifier.state_dict().items()}
    results = []
    for rho in (None, 1e-30, 0.5):
        torch.manual_seed(5)
        module = TransferModule(fresh(tiny_classifier, start), lr=0.05, mixup_alpha=0.4, sam_rho=rho)
        trainer = build_trainer(max_epochs=1, precision=precision, gradient_clip_val=1.0)
        trainer.fit(module, random_images)
        assert trainer.global_step == 4
        results.append((copy_state(module), trainer.callback_metrics["train/loss"].item()))
    (base, base_loss), (tiny, tiny_loss), (sam, _) = results
    assert all(torch.equal(base[name], tiny[name]) for name in base)
    assert base_loss == tiny_loss
    assert not torch.equal(base["classifier.head.fc.weight"], sam["classifier.head.fc.weight"])


def test_a_frozen_backbone_stays_frozen(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    module = TransferModule(tiny_classifier, sam_rho=0.5)
    start = copy_state(module)
    build_trainer(FreezeBackbone(None), max_epochs=1).fit(module, random_images)
    changed = {name for name, tensor in copy_state(module).items() if not torch.equal(tensor, start[name])}
    assert changed == {"classifier.head.fc.weight", "classifier.head.fc.bias"}


def test_an_interrupted_run_goes_on_to_the_bit(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build, tmp_path: Path
) -> None:
    start = {name: tensor.clone() for name, tensor in tiny_classifier.state_dict().items()}

    def build_module() -> TransferModule:
        return TransferModule(fresh(tiny_classifier, start), lr=0.05, mixup_alpha=0.4, sam_rho=0.5)

    def build_callbacks() -> list[pl.Callback]:
        return [EMA(0.3)]

    torch.manual_seed(7)
    whole = build_module()
    build_trainer(*build_callbacks(), max_epochs=2).fit(whole, random_images)
    expected = copy_state(whole)
    random_images.train_batches.skip = random_images.train_batches.yielded = 0
    torch.manual_seed(7)
    resumed, _ = interrupted_and_resumed(build_module, build_callbacks, random_images, build_trainer, tmp_path, 6)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in copy_state(resumed).items())
