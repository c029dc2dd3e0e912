"""A head that has been chosen, fitted to train alone and to train and val, against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.class_weight import compute_sample_weight

from transfer.probe import linear
from transfer.probe.class_weights import choose_class_weights
from transfer.probe.cross_validation import ChosenHead
from transfer.probe.features import Features
from transfer.probe.linear import fit_choice, fit_probe
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
        assert scaled - scaled.mean(0) == pytest.approx(value - value.mean(0), rel=1e-4, abs=1e-4)


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


@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_a_balanced_head_weights_the_classes_of_what_it_is_fitted_to(head: str) -> None:
    rare = np.flatnonzero((LABELS > 0) | (np.arange(80) % 4 == 0))
    train, val = (
        Features(torch.from_numpy(FEATURES[rows]), torch.from_numpy(LABELS[rows])) for rows in (rare[:40], rare[40:])
    )
    found = fit_choice([train], val, 3, ChosenHead(head, 3.0, 0.5, 6, "balanced"))
    for fit, rows in ((found.train_fit, rare[:40]), (found.fit, rare)):
        weights = compute_sample_weight("balanced", LABELS[rows])
        assert_is(fit, 0.5, expected(head, FEATURES[rows], LABELS[rows], weights))
    assert found.class_weights == "balanced"


@pytest.mark.parametrize("most", [0, 999])  # val chooses, and cross-validation
def test_a_balanced_probe_is_scikit_learns(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "MOST_CROSS_VALIDATED", most)
    monkeypatch.setattr(linear, "PENALTIES", (30.0, 3.0, 0.3))
    rare = np.flatnonzero((LABELS > 0) | (np.arange(80) % 4 == 0))
    train, val = (
        Features(torch.from_numpy(FEATURES[rows]), torch.from_numpy(LABELS[rows])) for rows in (rare[:40], rare[40:])
    )
    found = fit_probe([train], val, 3, class_weights="balanced")
    assert found.class_weights == "balanced" and fit_probe([train], val, 3).class_weights == "none"
    for fit, rows in ((found.train_fit, rare[:40]), (found.fit, rare)):
        model = LogisticRegression(C=1 / found.penalty, tol=1e-12, max_iter=10_000, class_weight="balanced")
        assert_is(fit, found.temperature, model.fit(FEATURES[rows], LABELS[rows]))


@pytest.mark.parametrize(
    ("asked", "metric", "taken"),
    [
        ("auto", "top1", "none"),
        ("auto", "mean_per_class", "balanced"),
        ("none", "mean_per_class", "none"),
        ("balanced", "top1", "balanced"),
    ],
)
def test_heads_weight_the_classes_where_their_mean_counts(asked: Any, metric: Any, taken: str) -> None:
    assert choose_class_weights(asked, metric) == taken


def test_the_one_view_of_val_counts_as_often_as_those_of_train() -> None:
    views, val = [part(slice(0, 60)), part(slice(0, 60), noise=0.5)], part(slice(60, 80))
    found = fit_choice(views, val, 3, ChosenHead("ridge", 3.0, 1.0, 6))
    rows = np.concatenate([*(view.features.numpy() for view in views), FEATURES[60:]])
    labels = np.concatenate([LABELS[:60], LABELS[:60], LABELS[60:]])
    assert_is(found.fit, 1.0, expected("ridge", rows, labels, np.repeat([0.5, 0.5, 1.0], [60, 60, 20])))
