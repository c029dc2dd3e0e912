"""Runs whose length nobody knows: what can still be trained, and what is refused with the way out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.training.batch_norm import BatchNormCheck, batch_norms
from transfer.training.callbacks import EMA
from transfer.training.module import TransferModule
from transfer.training.run_length import steps_per_epoch, total_steps

Build = Callable[..., pl.Trainer]


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Five batches of six images of three classes, without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            yield torch.randn(6, 3, 32, 32, generator=generator), torch.arange(6) % 3


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.values.append(trainer.optimizers[0].param_groups[-1]["lr"])


def fit(
    build_trainer: Build, classifier: Classifier, options: dict[str, Any], *callbacks: pl.Callback, **trainer: Any
) -> pl.Trainer:
    built = build_trainer(*callbacks, **trainer)
    built.fit(TransferModule(classifier, lr=0.1, **options), DataLoader(Stream(), batch_size=None))
    return built


@pytest.mark.parametrize(
    ("options", "trainer", "rates"),
    [
        # Cosine needs the run's length alone.
        (
            {"warmup_epochs": 0.0},
            {"max_steps": 8, "max_epochs": -1},
            [0.05 * (1 + math.cos(math.pi * step / 8)) for step in range(8)],
        ),
        ({"warmup_epochs": 0.0, "schedule": "constant"}, {"max_epochs": 2}, [0.1] * 10),
        ({"warmup_epochs": 0.0, "schedule": "constant"}, {"max_time": {"seconds": 0.4}}, None),
        # An epoch's length that the user gives.
        (
            {"warmup_epochs": 1.0, "schedule": "constant"},
            {"max_epochs": 2, "limit_train_batches": 3},
            [0.025, 0.05, 0.075, 0.1, 0.1, 0.1],
        ),
        (
            {"warmup_epochs": 0.0, "schedule": "exponential"},
            {"max_steps": 4, "max_epochs": -1},
            [0.1 * 0.97**falls for falls in (0, 36, 72, 109)],
        ),
        (
            {"warmup_epochs": 0.0},
            {"max_epochs": 2, "limit_train_batches": 2},
            [0.1, 0.05 + 0.05 * math.sqrt(0.5), 0.05, 0.05 - 0.05 * math.sqrt(0.5)],
        ),
    ],
)
def test_a_loader_without_a_length_trains_by_the_schedule(
    tiny_classifier: Classifier,
    build_trainer: Build,
    options: dict[str, Any],
    trainer: dict[str, Any],
    rates: list[float] | None,
) -> None:
    seen = Rates()
    fit(build_trainer, tiny_classifier, options, seen, BatchNormCheck(), **trainer)
    assert seen.values == pytest.approx(rates if rates is not None else [0.1] * len(seen.values))
    assert len(seen.values) > 0


@pytest.mark.parametrize(
    ("options", "trainer", "message"),
    [
        ({}, {"max_epochs": 2}, r"`schedule`='cosine' spreads its fall over the run.*give `max_steps`"),
        ({}, {"max_time": "00:00:01:00"}, r"`schedule`='cosine' spreads its fall over the run.*give `max_steps`"),
        ({}, {"max_steps": 8, "max_epochs": -1}, r"`warmup_epochs`=0.5 counts epochs.*give `limit_train_batches`"),
        ({"schedule": "constant"}, {"max_epochs": 1}, r"`warmup_epochs`=0.5 counts epochs.*or `warmup_epochs`=0"),
        (
            {"schedule": "exponential", "warmup_epochs": 0.0},
            {"max_epochs": 2},
            r"`schedule`='exponential' spreads its fall over the run.*give `max_steps`",
        ),
    ],
)
def test_a_schedule_that_needs_a_length_is_refused_without_one(
    tiny_classifier: Classifier, build_trainer: Build, options: dict[str, Any], trainer: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fit(build_trainer, tiny_classifier, options, **trainer)


def test_an_average_over_a_share_of_the_run_needs_its_length(tiny_classifier: Classifier, build_trainer: Build) -> None:
    options = {"schedule": "constant", "warmup_epochs": 0.0}
    with pytest.raises(UserError, match=r"`ema_half_life` is a fraction of the run.*give `max_steps`"):
        fit(build_trainer, tiny_classifier, options, EMA(0.1), max_epochs=1)


@pytest.mark.parametrize(
    ("trainer", "momentum"),
    [
        ({"max_epochs": 1}, 0.01),  # nothing is known: the weights' own pace
        ({"max_steps": 200, "max_epochs": -1, "limit_train_batches": 50}, 0.2),  # 40 over the run's batches
        ({"max_time": {"seconds": 0.2}, "limit_train_batches": 400}, 0.025),  # 10 over the epoch's batches
        ({"max_steps": 2, "max_epochs": -1}, 0.3),
    ],
)
def test_statistics_follow_as_far_as_the_length_is_known(
    tiny_classifier: Classifier, build_trainer: Build, trainer: dict[str, Any], momentum: float
) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = True

    options = {"schedule": "constant", "warmup_epochs": 0.0}
    fit(build_trainer, tiny_classifier, options, Stop(), **trainer)
    momenta = {norm.momentum for norm in batch_norms(tiny_classifier)}
    assert sorted(momenta) == pytest.approx([momentum])


def test_known_lengths_are_counted_in_optimizer_steps(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Build
) -> None:
    trainer = build_trainer(max_epochs=3, accumulate_grad_batches=3)
    trainer.fit(TransferModule(tiny_classifier), random_images)
    assert (total_steps(trainer), steps_per_epoch(trainer)) == (6, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate_grad_batches": 0}, "`accumulate_grad_batches`=0"),
        ({"accumulate_grad_batches": -1}, "`accumulate_grad_batches`=-1"),
        ({"max_steps": 0}, "`max_steps`=0: nothing would be learned"),
        ({"val_check_interval": 0}, "`val_check_interval`=0"),
        ({"val_check_interval": 0.0}, "`val_check_interval`=0"),
    ],
)
def test_a_trainer_that_takes_no_step_or_another_one_is_refused(
    tiny_classifier: Classifier, build_trainer: Build, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fit(build_trainer, tiny_classifier, {"schedule": "constant"}, **{"max_epochs": 1, **options})
