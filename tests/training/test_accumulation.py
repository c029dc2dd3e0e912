"""An optimizer step of several batches follows their mean, also where an epoch ends before it is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from transfer.errors import BadValue
from transfer.networks.classifier import Classifier
from transfer.networks.layers import StochasticDepth
from transfer.training.module import TransferModule

Build = Callable[..., pl.Trainer]


class Same(IterableDataset[tuple[Tensor, Tensor]]):
    """Equal batches of four images of three classes, without a length."""

    def __init__(self, num_batches: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batch = torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 0])
        self.batches = [self.batch] * num_batches

    def __iter__(self) -> Any:
        return iter(self.batches)


class Norms(pl.Callback):
    """Norm of the gradient of each optimizer step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        grads = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.values.append(torch.cat(grads).norm().item())


def make_regular(classifier: Classifier) -> None:
    """Leave nothing to chance, and give all weights a gradient."""
    classifier.head.dropout.p = 0.0
    torch.nn.init.normal_(classifier.head.fc.weight, std=0.1)
    for module in classifier.modules():
        if isinstance(module, StochasticDepth):
            module.drop_prob = 0.0


def norm_of_one(classifier: Classifier, batch: tuple[Tensor, Tensor]) -> float:
    loss = torch.nn.functional.cross_entropy(classifier(batch[0]), batch[1], label_smoothing=0.1)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(classifier.parameters()))]).norm().item()


@pytest.mark.parametrize(
    ("num_batches", "accumulated", "limit", "steps"),
    [(8, 4, None, 2), (5, 4, None, 2), (7, 4, None, 2), (1, 4, None, 1), (9, 4, 6, 2), (9, 4, 0.75, 2)],
)
def test_the_gradient_of_equal_batches_is_that_of_one(
    tiny_classifier: Classifier, build_trainer: Build, num_batches: int, accumulated: int, limit: Any, steps: int
) -> None:
    make_regular(tiny_classifier)
    data, norms = Same(num_batches), Norms()
    mixing = {}
    if num_batches == 7:  # mixed with the same image of the same class
        data.batch[0][:], data.batch[1][:] = data.batch[0][:1].clone(), 0
        mixing = {"mixup_alpha": 0.4}
    module = TransferModule(tiny_classifier, lr=1e-9, schedule="constant", warmup_epochs=0.0, **mixing)
    expected = norm_of_one(tiny_classifier, data.batch)
    trainer = build_trainer(
        norms, max_epochs=1, accumulate_grad_batches=accumulated, limit_train_batches=limit, limit_val_batches=0
    )
    trainer.fit(module, DataLoader(data.batches, None))
    assert trainer.global_step == steps
    assert norms.values == pytest.approx([expected] * steps, rel=1e-3)


def test_an_incomplete_step_without_a_known_length_is_complete_too(
    tiny_classifier: Classifier, build_trainer: Build
) -> None:
    make_regular(tiny_classifier)
    data, norms = Same(3), Norms()
    module = TransferModule(tiny_classifier, lr=1e-9, schedule="constant", warmup_epochs=0.0)
    expected = norm_of_one(tiny_classifier, data.batch)
    build_trainer(norms, max_epochs=1, accumulate_grad_batches=2, limit_val_batches=0).fit(
        module, DataLoader(data, None)
    )
    assert norms.values == pytest.approx([expected] * 2, rel=1e-3)


def test_sam_needs_the_whole_batch_at_once(tiny_classifier: Classifier, build_trainer: Build) -> None:
    trainer = build_trainer(max_epochs=1, accumulate_grad_batches=2, limit_val_batches=0)
    with pytest.raises(BadValue, match=r"`sam_rho` with `accumulate_grad_batches`=2"):
        trainer.fit(TransferModule(tiny_classifier, sam_rho=0.05), DataLoader(Same(2).batches, None))
