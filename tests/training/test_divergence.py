"""A run that diverges says so: by an error where no number is left, by a warning where the loss is far too high."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import pytorch_lightning as pl

from tests.conftest import RandomImages
from transfer.errors import Diverged
from transfer.networks.classifier import Classifier
from transfer.training.callbacks import FreezeBackbone
from transfer.training.divergence import refuse_divergence, warn_of_rise
from transfer.training.module import TransferModule

Build = Callable[..., pl.Trainer]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_refused_with_what_to_lower(loss: float) -> None:
    with pytest.raises(Diverged, match=rf"validation loss is {loss} in epoch 3.*lower `lr` \(now 0.5\)"):
        refuse_divergence("validation", loss, 3, 0.5)
    refuse_divergence("validation", 1e9, 3, 0.5)


@pytest.mark.parametrize(("answers", "loss", "warned"), [(100, 13.0, False), (100, 14.0, True), (2, 2.2, True)])
def test_a_loss_of_three_times_that_of_guessing_is_told(answers: int, loss: float, warned: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert warn_of_rise(loss, answers, 2, 0.5) == warned
    assert len(caught) == warned and all(f"{math.log(answers):.3g} by guessing" in str(w.message) for w in caught)


def test_a_head_on_a_frozen_backbone_at_too_high_a_rate_is_told_once(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    with pytest.warns(UserWarning) as caught:
        module = TransferModule(tiny_classifier, lr=1e4, schedule="constant", warmup_epochs=0.0)
        build_trainer(FreezeBackbone(None), max_epochs=3, limit_val_batches=0).fit(module, random_images)
    told = [str(w.message) for w in caught if "by guessing" in str(w.message)]
    assert len(told) == 1 and "in epoch 1, but 1.1 by guessing" in told[0] and "lower `lr` (now 10000.0)" in told[0]
