"""Progressive learning: what a run trains on in each stage, and what it leaves."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from torch import nn

from datamodules import build_datamodule
from datamodules.datamodule import DataModule
from datamodules.images.ops import RandomOps
from datamodules.images.transforms import Transform
from tests.support.data import PREPROCESSING
from transfer import build_classifier
from transfer.errors import UserError
from transfer.training.module import TransferModule
from transfer.training.progressive import Progressive


class Seen(pl.Callback):
    """Keeps what each batch was like: its side, the dropout's rate and both alphas; and the side of validation's."""

    def __init__(self) -> None:
        self.train: list[tuple[int, float, float, float]] = []
        self.val: set[int] = set()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TransferModule)
        (dropout,) = [module for module in pl_module.classifier.head.modules() if isinstance(module, nn.Dropout)]
        alphas = round(pl_module.mixup_alpha, 6), round(pl_module.cutmix_alpha, 6)
        self.train.append((batch[0].shape[-1], round(dropout.p, 6), *alphas))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.val.add(batch[0].shape[-1])


def digits(**options: Any) -> DataModule:
    given = {"image_size": 38, "progressive": 32, "num_workers": 0, "batch_size": 4, "augment": "randaugment"}
    return build_datamodule("digits", preprocessing=PREPROCESSING, **{**given, **options})


def fit(data: DataModule, **options: Any) -> tuple[TransferModule, Seen]:
    classifier = build_classifier("b0@d=0.3,w=0.25", 10, pretrained=False, dropout=0.4)
    module, seen = TransferModule(classifier, mixup_alpha=0.3, cutmix_alpha=0.6), Seen()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[Progressive(), seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        **options,
    )
    trainer.fit(module, data)
    return module, seen


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"cache": "ram"}])
def test_images_and_regularisation_grow_together(options: dict[str, Any]) -> None:
    data = digits(**options)
    module, seen = fit(data, max_epochs=2, limit_train_batches=6)
    stages = [(32, 0.1, 0.0, 0.0), (34, 0.2, 0.1, 0.2), (36, 0.3, 0.2, 0.4), (38, 0.4, 0.3, 0.6)]
    assert seen.train == [stage for stage in stages for _ in range(3)] and seen.val == {38}
    assert (module.mixup_alpha, module.cutmix_alpha) == (0.3, 0.6)
    assert [m.p for m in module.classifier.head.modules() if isinstance(m, nn.Dropout)] == [0.4]


def test_accumulated_batches_are_of_one_size_and_max_steps_sets_the_length() -> None:
    _, seen = fit(digits(), max_epochs=-1, max_steps=4, limit_train_batches=8, accumulate_grad_batches=2)
    assert [side for side, *_ in seen.train] == [32, 32, 34, 34, 36, 36, 38, 38]


def test_randaugment_grows() -> None:
    dataset = digits().train_dataloader().dataset
    transforms: list[Transform] = list(dataset._stages)  # type: ignore[attr-defined]
    strengths = [step.strengths[0] for t in transforms for step in t.transforms if isinstance(step, RandomOps)]  # type: ignore[union-attr]
    assert strengths == pytest.approx([5 / 30, 19 / 90, 23 / 90, 9 / 30])


def test_a_progressive_loader_without_a_plan_is_at_full_size() -> None:
    images, _ = next(iter(digits().train_dataloader()))
    assert images.shape[1:3] == (38, 38)


@pytest.mark.parametrize(
    ("data", "trainer", "named"),
    [
        ({}, {"max_epochs": -1, "max_time": {"minutes": 1}}, "give `max_steps`"),
        ({}, {"max_epochs": 1, "overfit_batches": 2}, "all of its training images"),
    ],
)
def test_what_cannot_grow_is_refused_when_training_starts(
    data: dict[str, Any], trainer: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        fit(digits(**data), **trainer)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"progressive": 38}, r"`progressive`=38 \(allowed: 32 to below `image_size`=38\)"),
        ({"progressive": 31}, r"`progressive`=31 \(allowed: 32 to below"),
        ({"train_transform": lambda pixels: pixels}, "`progressive`=32 with `train_transform`"),
    ],
)
def test_data_that_cannot_grow_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        digits(**options)
