"""The measured peak, and the predicted one beside it; glibc's and Linux's ways."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from transfer.costs.memory import inference_memory, training_memory
from transfer.costs.peak_memory import PROCESS_STATUS, measure_peak
from transfer.errors import UserError
from transfer.weights.build import build_classifier

pytestmark = pytest.mark.skipif(not PROCESS_STATUS.is_file(), reason="needs Linux")


def wide() -> nn.Module:
    """Of 3 px: a linear layer of 80 MB, and no gradient of it."""
    return nn.Sequential(nn.Flatten(), nn.Linear(27, 27), nn.Linear(27, 20_000_000 // 27))


def test_a_training_step_is_as_predicted() -> None:
    build = partial(build_classifier, "lite0", 10)
    predicted = training_memory(build(), 64).total(48)
    assert predicted == pytest.approx(measure_peak(build, 64, 48, threads=1), rel=0.1)


def test_inference_holds_the_weights_once_and_the_process_goes_with_its_memory() -> None:
    predicted = inference_memory(wide(), 3, 2)
    assert predicted == pytest.approx(measure_peak(wide, 3, 2, training=False), rel=0.1) and predicted > 8e7


def test_a_process_that_is_killed_is_reported() -> None:
    with pytest.raises(UserError, match=r"the process with 4 images of 32 px was killed, .* give a smaller batch"):
        measure_peak(partial(os._exit, 9), 32, 4)


def test_a_mistake_in_the_process_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown backbone 'b9'"):
        measure_peak(partial(build_classifier, "b9", 10), 32, 4)
    monkeypatch.setattr("transfer.costs.peak_memory.PROCESS_STATUS", tmp_path / "status")
    with pytest.raises(UserError, match="only Linux tells that of a process"):
        measure_peak(wide, 3, 2)
