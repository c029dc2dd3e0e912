"""Freezing by our callback and by Lightning's, on TransferModule and on a module of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, ModelCheckpoint
from torch import Tensor, nn

from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.training.batch_norm import BatchNormPolicy, recompute_statistics
from transfer.training.callbacks import EpochLog, FreezeBackbone
from transfer.training.module import TransferModule

Build = Callable[..., pl.Trainer]


class OwnModule(pl.LightningModule):
    """What a user may write: a backbone, a head, and an optimizer over what learns when it is made."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.backbone, self.head = classifier.backbone, classifier.head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).mean((2, 3)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.05)


class Watch(pl.Callback):
    """After each batch: the rates of the optimizer's groups, a convolution of the backbone, its statistics."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.weights: list[Tensor] = []
        self.means: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
        self.weights.append(pl_module.backbone.stem.conv.weight.detach().clone())
        self.means.append(pl_module.backbone.stem.norm.running_mean.clone())


def still(tensors: list[Tensor]) -> list[bool]:
    """Whether each tensor is the one before it, to the bit."""
    return [torch.equal(a, b) for a, b in pairwise(tensors)]


@pytest.mark.parametrize("build_module", [OwnModule, TransferModule])
def test_our_callback_frees_the_backbone_after_its_epoch(
    tiny_classifier: Classifier,
    random_images: pl.LightningDataModule,
    build_trainer: Build,
    build_module: Callable[[Classifier], pl.LightningModule],
) -> None:
    watch, module = Watch(), build_module(tiny_classifier)
    build_trainer(FreezeBackbone(1), watch, max_epochs=2).fit(module, random_images)
    assert still(watch.weights) == [True] * 3 + [False] * 4
    assert still(watch.means) == [True] * 3 + [False] * 4


@pytest.mark.parametrize("policy", ["frozen", "recompute"])
def test_the_policies_work_on_an_own_module(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Build, policy: str
) -> None:
    watch = Watch()
    recompute_statistics(tiny_classifier, tiny_classifier, iter([random_images.images]))
    build_trainer(BatchNormPolicy(policy), watch, max_epochs=1).fit(OwnModule(tiny_classifier), random_images)
    assert still(watch.means) == [policy == "frozen"] * 3
    assert still(watch.weights) == [False] * 3


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "constant"])
def test_lightnings_callback_adds_the_backbone_at_its_own_rate(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Build, schedule: str
) -> None:
    watch, module = Watch(), TransferModule(tiny_classifier, lr=0.1, schedule=schedule, warmup_epochs=0.0)
    tiny_classifier.backbone.stages.apply(lambda m: [nn.init.normal_(p) for p in m.parameters(recurse=False)] and None)
    finetuning = BackboneFinetuning(1, lambda epoch: 1.5, backbone_initial_lr=0.004, should_align=False)
    trainer = build_trainer(finetuning, watch, max_epochs=3)
    trainer.fit(module, random_images)
    assert still(watch.weights) == [True] * 3 + [False] * 8
    # Lightning keeps BatchNorm trainable: the module's three groups are its norms and the head; the fourth is added.
    assert [len(rates) for rates in watch.rates] == [3] * 4 + [4] * 8
    assert [rates[3] for rates in watch.rates[4:]] == pytest.approx([0.004] * 4 + [0.006] * 4)
    plain = Watch()
    build_trainer(plain, max_epochs=3).fit(
        TransferModule(tiny_classifier, lr=0.1, schedule=schedule, warmup_epochs=0.0), random_images
    )
    assert [rates[:3] for rates in watch.rates] == [[rates[0]] * 3 for rates in plain.rates]
    grouped = [id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in module.parameters())


@pytest.mark.parametrize("sam_rho", [None, 0.05])
def test_a_run_resumes_with_the_group_that_lightnings_callback_added(
    tiny_classifier: Classifier,
    random_images: pl.LightningDataModule,
    build_trainer: Build,
    tmp_path: Path,
    sam_rho: float | None,
) -> None:
    def run(max_epochs: int, checkpoint: Path | None) -> list[list[float]]:
        watch = Watch()
        callbacks = [BackboneFinetuning(1, backbone_initial_lr=0.004), watch, ModelCheckpoint(tmp_path)]
        trainer = build_trainer(*callbacks, max_epochs=max_epochs)
        module = TransferModule(tiny_classifier, lr=0.1, schedule="constant", sam_rho=sam_rho)
        trainer.fit(module, random_images, ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        return watch.rates

    uninterrupted = run(3, None)
    run(2, None)
    resumed = run(3, tmp_path / "end.ckpt")
    assert len(resumed) == 4
    assert resumed == uninterrupted[8:]


def test_the_log_names_the_heads_rate_beside_an_added_group(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Build, tmp_path: Path
) -> None:
    log, finetuning = EpochLog(tmp_path / "metrics.csv"), BackboneFinetuning(1, backbone_initial_lr=0.004)
    module = TransferModule(tiny_classifier, lr=0.1, schedule="constant")
    build_trainer(finetuning, log, max_epochs=2).fit(module, random_images)
    assert [row["lr"] for row in log._rows] == [0.1, 0.1]


def test_a_module_without_a_backbone_is_told_what_is_missing(build_trainer: Build, random_images: Any) -> None:
    class NoBackbone(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch: object, batch_idx: int) -> None:
            pass

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.raises(UserError, match=r"NoBackbone has no `backbone`: set it to the nn.Module to freeze"):
        build_trainer(FreezeBackbone(1), max_epochs=1).fit(NoBackbone(), random_images.train_batches)
