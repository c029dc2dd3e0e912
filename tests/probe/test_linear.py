"""A head that has been chosen, fitted to train alone and to train and val, against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score

from transfer.probe import linear
from transfer.probe.cross_validation import ChosenHead
from transfer.probe.features import Features
from transfer.probe.linear import fit_choice, fit_probe
from transfer.probe.logistic import LinearFit
from transfer.probe.logit_adjustment import is_adjusted

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(80, 6))
LABELS = (FEATURES[:, :3] + RNG.normal(size=(80, 3))).argmax(1)
RARE = np.flatnonzero((LABELS > 0) | (np.arange(80) % 4 == 0))  # of the first class few


def part(images: slice, noise: float = 0.0) -> Features:
    values = FEATURES[images] + noise * np.random.default_rng(1).normal(size=FEATURES[images].shape)
    return Features(torch.from_numpy(values), torch.from_numpy(LABELS[images]))


def expected(head: str, features: NDArray[np.float64], labels: NDArray[np.int64], weights: Any = None) -> Any:
    if head == "ridge":
        return Ridge(alpha=3.0).fit(features, np.eye(3)[labels], weights)
    return LogisticRegression(C=1 / 3, tol=1e-12, max_iter=10_000).fit(features, labels, weights)


def rows_of(rows: NDArray[np.int64]) -> Features:
    return Features(torch.from_numpy(FEATURES[rows]), torch.from_numpy(LABELS[rows]))


def log_shares(rows: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.log([np.mean(LABELS[rows] == label) for label in range(3)])


def assert_is(fit: LinearFit, temperature: float, sklearn: Any, adjustment: NDArray[np.float64] | float = 0.0) -> None:
    """Of logistic regression only differences between the classes count."""
    for found, value in ((fit.weight, sklearn.coef_), (fit.bias + adjustment, sklearn.intercept_)):
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
def test_an_adjusted_head_is_scikit_learns_less_the_log_shares_of_what_it_is_fitted_to(head: str) -> None:
    train, val = RARE[:40], RARE[40:]
    found = fit_choice([rows_of(train)], rows_of(val), 3, ChosenHead(head, 3.0, 0.5, 6, True))
    for fit, rows in ((found.train_fit, train), (found.fit, RARE)):
        assert_is(fit, 0.5, expected(head, FEATURES[rows], LABELS[rows]), log_shares(rows))
    assert found.logit_adjustment and np.abs(log_shares(train) - log_shares(RARE)).max() > 0.05


@pytest.mark.parametrize("most", [0, 999])  # val chooses, and cross-validation
def test_an_adjusted_probe_is_chosen_and_fitted_by_the_images_as_they_are(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "MOST_CROSS_VALIDATED", most)
    monkeypatch.setattr(linear, "PENALTIES", (30.0, 3.0, 0.3))
    train, val = RARE[:40], RARE[40:]
    found, plain = (
        fit_probe([rows_of(train)], rows_of(val), 3, "mean_per_class", logit_adjustment=adjusts)
        for adjusts in (True, False)
    )
    assert (found.logit_adjustment, plain.logit_adjustment) == (True, False)
    models = {
        penalty: LogisticRegression(C=1 / penalty, tol=1e-12, max_iter=10_000).fit(FEATURES[train], LABELS[train])
        for penalty in found.val_metrics
    }
    for penalty, metrics in found.val_metrics.items():
        scores = models[penalty].decision_function(FEATURES[val]) / found.temperature - log_shares(train)
        accuracy = balanced_accuracy_score(LABELS[val], scores.argmax(1))
        assert metrics["mean_per_class"] == pytest.approx(accuracy), penalty
    assert_is(found.train_fit, found.temperature, models[found.penalty], log_shares(train))
    both = LogisticRegression(C=1 / found.penalty, tol=1e-12, max_iter=10_000).fit(FEATURES[RARE], LABELS[RARE])
    assert_is(found.fit, found.temperature, both, log_shares(RARE))
    if most:
        assert (found.penalty, found.temperature) == (plain.penalty, plain.temperature)
    else:
        assert found.penalty == max(models, key=lambda penalty: found.val_metrics[penalty]["mean_per_class"])
        assert len(models) == 3


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_a_class_without_an_image_is_never_predicted(head: str, temperature: float) -> None:
    found = fit_choice([rows_of(RARE[:40])], rows_of(RARE[40:]), 5, ChosenHead(head, 3.0, temperature, 6, True))
    tested = torch.from_numpy(2 * RNG.normal(size=(500, 6)))
    assert set(found.fit.logits(tested).argmax(1).tolist()) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("asked", "metric", "taken"),
    [
        ("auto", "top1", False),
        ("auto", "mean_per_class", True),
        (False, "mean_per_class", False),
        (True, "top1", True),
    ],
)
def test_heads_are_adjusted_where_the_mean_per_class_counts(asked: Any, metric: Any, taken: bool) -> None:
    assert is_adjusted(asked, metric) is taken


def test_the_one_view_of_val_counts_as_often_as_those_of_train() -> None:
    views, val = [part(slice(0, 60)), part(slice(0, 60), noise=0.5)], part(slice(60, 80))
    found = fit_choice(views, val, 3, ChosenHead("ridge", 3.0, 1.0, 6))
    rows = np.concatenate([*(view.features.numpy() for view in views), FEATURES[60:]])
    labels = np.concatenate([LABELS[:60], LABELS[:60], LABELS[60:]])
    assert_is(found.fit, 1.0, expected("ridge", rows, labels, np.repeat([0.5, 0.5, 1.0], [60, 60, 20])))
