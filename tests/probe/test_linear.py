"""A head that has been chosen, fitted to train alone and to train and val, against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from transfer.probe.cross_validation import ChosenHead
from transfer.probe.features import Features
from transfer.probe.linear import fit_choice
from transfer.probe.logistic import LinearFit

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(80, 6))
LABELS = (FEATURES[:, :3] + RNG.normal(size=(80, 3))).argmax(1)


def part(images: slice, noise: float = 0.0) -> Features:
    values = FEATURES[images] + noise * np.random.default_rng(1).normal(size=FEATURES[images].shape)
    return Features(torch.from_numpy(values), torch.from_numpy(LABELS[images]))


def expected(head: str, features: NDArray[np.float64], labels: NDArray[np.int64], weights: Any = None) -> Any:
    if head == "ridge":
        return Ridge(alpha=3.0).fit(features, np.eye(3)[labels], weights)
    return LogisticRegression(C=1 / 3, tol=1e-12, max_iter=10_000).fit(features, labels, weights)


def assert_is(fit: LinearFit, temperature: float, sklearn: Any) -> None:
    """Of logistic regression only differences between the classes count."""
    for found, value in ((fit.weight, sklearn.coef_), (fit.bias, sklearn.intercept_)):
        scaled = temperature * found.numpy()
        assert scaled - scaled.mean(0) == pytest.approx(value - value.mean(0), abs=1e-4)


@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_a_chosen_head_is_fitted_to_train_and_to_both(head: str) -> None:
    train, val = part(slice(0, 60)), part(slice(60, 80))
    found = fit_choice([train], val, 3, ChosenHead(head, 3.0, 0.25, 6))
    alone = expected(head, FEATURES[:60], LABELS[:60])
    assert_is(found.train_fit, 0.25, alone)
    assert_is(found.fit, 0.25, expected(head, FEATURES, LABELS))
    assert (found.head, found.penalty, found.temperature, found.chosen_on) == (head, 3.0, 0.25, "trainval")
    scores = FEATURES[60:] @ alone.coef_.T + alone.intercept_
    assert found.val_metrics[3.0]["top1"] == pytest.approx(np.mean(scores.argmax(1) == LABELS[60:]))
    assert found.val_logits.argmax(1).tolist() == scores.argmax(1).tolist()


def test_the_one_view_of_val_counts_as_often_as_those_of_train() -> None:
    views, val = [part(slice(0, 60)), part(slice(0, 60), noise=0.5)], part(slice(60, 80))
    found = fit_choice(views, val, 3, ChosenHead("ridge", 3.0, 1.0, 6))
    rows = np.concatenate([*(view.features.numpy() for view in views), FEATURES[60:]])
    labels = np.concatenate([LABELS[:60], LABELS[:60], LABELS[60:]])
    assert_is(found.fit, 1.0, expected("ridge", rows, labels, np.repeat([0.5, 0.5, 1.0], [60, 60, 20])))
