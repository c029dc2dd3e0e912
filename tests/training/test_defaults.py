"""TransferModule's defaults are the configuration's, so that a notebook trains as the command does."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from tests.conftest import RandomImages
from transfer.config.schema import FinetuneConfig
from transfer.networks.classifier import Classifier
from transfer.training.batch_norm import BatchNormPolicy, batch_norms
from transfer.training.module import TransferModule

Build = Callable[..., pl.Trainer]
WITHOUT_A_FIELD = {
    "classifier",
    "backbone",
    "num_classes",
    "load_weights",
    "in_channels",
    "output_stride",
    "class_weights",
    "logit_adjustment",
    "distillation",
}


def test_every_default_is_the_schemas() -> None:
    config = FinetuneConfig()
    start = {name: getattr(config, name) for name in ("pretrained", "init_from", "weights")}
    fields = {**start, **config.network_options(), **config.module_options()}
    parameters = dict(list(inspect.signature(TransferModule.__init__).parameters.items())[1:])
    assert parameters.keys() - WITHOUT_A_FIELD == fields.keys()
    assert {name: parameters[name].default for name in fields} == fields
    assert parameters["class_weights"].default is None and config.loss.class_weights == "none"
    assert parameters["logit_adjustment"].default is None and not config.loss.logit_adjustment


class Rates(pl.Callback):
    """The settings of every group, step by step."""

    def __init__(self) -> None:
        self.steps: list[list[dict[str, Any]]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        self.steps.append([{name: value for name, value in group.items() if name != "params"} for group in groups])


def test_a_module_of_defaults_trains_as_the_commands_module(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    runs = []
    for options in ({}, FinetuneConfig().module_options()):
        torch.manual_seed(0)
        rates, classifier = Rates(), copy.deepcopy(tiny_classifier)
        trainer = build_trainer(rates, max_epochs=2)
        trainer.fit(TransferModule(classifier, **options), random_images)
        runs.append((rates.steps, type(trainer.optimizers[0]), classifier.state_dict()))
    assert runs[0][:2] == runs[1][:2]
    torch.testing.assert_close(runs[0][2], runs[1][2], rtol=0, atol=0)
    steps = runs[0][0]
    assert [step[0]["lr"] for step in steps][:3] == pytest.approx(
        [0.02 / 3, 0.04 / 3, 0.02]
    )  # half an epoch, to the peak


def test_a_notebook_gets_the_commands_batch_norm_policy(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    trainer = build_trainer(max_epochs=2)
    trainer.fit(TransferModule(tiny_classifier), random_images)
    assert [c.policy for c in trainer.callbacks if isinstance(c, BatchNormPolicy)] == ["adapt"]
    assert {norm.momentum for norm in batch_norms(tiny_classifier)} == {0.3}


def test_a_policy_of_the_trainer_goes_before_the_modules(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    trainer = build_trainer(BatchNormPolicy("train"), max_epochs=1)
    for _ in range(2):
        trainer.fit(TransferModule(tiny_classifier, bn="adapt"), random_images)
    assert [c.policy for c in trainer.callbacks if isinstance(c, BatchNormPolicy)] == ["train"]
