"""The temperature is the one that a grid finds, and the calibration error is torchmetrics'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from transfer.calibration.temperature import (
    as_probabilities,
    expected_calibration_error,
    fit_temperature,
    folds,
    is_inside,
    mean_loss,
)

Arrays = tuple[NDArray[np.float32], NDArray[Any]]


def images(count: int, temperature: float, num_classes: int = 5, seed: int = 0) -> Arrays:
    """Logits that are right as often as they say once divided by `temperature`."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, num_classes))
    cumulated = as_probabilities(logits, False).cumsum(1)
    return (temperature * logits).astype(np.float32), (rng.random((count, 1)) > cumulated).sum(1).clip(
        max=num_classes - 1
    )


def labelled_images(count: int, temperature: float, num_classes: int = 5) -> Arrays:
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(count, num_classes))
    return (temperature * logits).astype(np.float32), rng.random(logits.shape) < as_probabilities(logits, True)


@pytest.mark.parametrize("true", [0.02, 0.5, 1.7, 4.0])
def test_the_temperature_is_the_best_of_a_grid_and_near_the_true_one(true: float) -> None:
    logits, targets = images(4000, true)
    grid = true * np.exp(np.linspace(-0.1, 0.1, 201))
    losses = [log_loss(targets, as_probabilities(logits / t, False), labels=range(5)) for t in grid]
    fit = fit_temperature(logits, targets)
    assert fit.temperature == pytest.approx(grid[np.argmin(losses)], rel=1e-3)
    assert fit.temperature == pytest.approx(true, rel=0.05)
    assert fit.ece_after < fit.ece_before and fit.nll_after < fit.nll_before
    assert fit.nll_before == pytest.approx(log_loss(targets, as_probabilities(logits, False)), rel=1e-6)


def test_with_several_labels_the_binary_loss_is_minimised() -> None:
    logits, targets = labelled_images(2000, 3.0)
    fit = fit_temperature(logits, targets)
    assert fit.temperature == pytest.approx(3.0, rel=0.05)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(targets).float())
    assert mean_loss(logits, targets) == pytest.approx(float(loss), rel=1e-5)


def test_what_it_gains_is_measured_on_the_folds_left_out() -> None:
    logits, targets = images(200, 2.0)
    fit, fold = fit_temperature(logits, targets), folds(200)
    assert np.bincount(fold).tolist() == [40] * 5
    held_out = np.concatenate([as_probabilities(logits[fold == i] / fit.by_fold[i], False) for i in range(5)])
    order = np.concatenate([np.flatnonzero(fold == i) for i in range(5)])
    assert fit.ece_after == pytest.approx(expected_calibration_error(held_out, targets[order]))
    assert fit.nll_after == pytest.approx(log_loss(targets[order], held_out, labels=range(5)))
    # Each fold's temperature is that of the other images alone.
    assert fit.by_fold[2] == fit_temperature(logits[fold != 2], targets[fold != 2]).fitted


def test_a_temperature_that_gains_nothing_is_one() -> None:
    rng = np.random.default_rng(0)
    fits = [fit_temperature(*images(60, 1.0, seed=int(seed))) for seed in rng.integers(1000, size=20)]
    unused = [fit for fit in fits if fit.temperature == 1]
    assert 5 <= len(unused) < 20
    for fit in unused:
        assert fit.fitted != 1 and fit.by_fold == (1.0,) * 5
        assert (fit.ece_after, fit.nll_after) == (fit.ece_before, fit.nll_before)
    assert all(fit.ece_after <= fit.ece_before and fit.nll_after <= fit.nll_before for fit in fits)


@pytest.mark.parametrize("gap", [1, 10, 1000])
def test_answers_that_are_all_right_leave_the_temperature_at_one(gap: float) -> None:
    logits = gap * np.eye(3, dtype=np.float32)[np.arange(60) % 3]
    fit = fit_temperature(logits, np.arange(60) % 3)
    assert fit.temperature == 1 and not is_inside(fit.fitted)
    labels = np.eye(3, dtype=bool)[np.arange(60) % 3]
    fit = fit_temperature(gap * (2 * labels - 1.0), labels)
    assert fit.temperature == 1 and not is_inside(fit.fitted)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_few_images_have_fewer_folds(count: int) -> None:
    fit = fit_temperature(*images(count, 2.0))
    assert len(fit.by_fold) == min(5, count) and np.isfinite([fit.ece_after, fit.nll_after]).all()


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    logits, targets = images(3000, 2.0)
    probabilities = as_probabilities(logits, False)
    theirs = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(targets), 5, n_bins=15)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(float(theirs), abs=1e-6)
    logits, targets = labelled_images(3000, 2.0)
    probabilities = as_probabilities(logits, True)
    theirs = binary_calibration_error(torch.tensor(probabilities), torch.tensor(targets).int(), n_bins=15)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(float(theirs), abs=1e-6)


def test_probabilities_are_torchs_for_logits_of_any_size() -> None:
    logits = torch.tensor([[1000.0, -1000.0, 0.0], [0.5, 0.25, -3.0]])
    for multilabel, theirs in ((False, logits.double().softmax(1)), (True, logits.double().sigmoid())):
        torch.testing.assert_close(torch.tensor(as_probabilities(logits.numpy(), multilabel)), theirs)
