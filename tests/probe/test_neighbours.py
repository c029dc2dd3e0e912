"""The nearest neighbours' votes against scikit-learn's classifier with the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from transfer.probe import neighbours
from transfer.probe.features import Features
from transfer.probe.neighbours import left_out_votes, neighbour_accuracies, neighbour_votes

RNG = np.random.default_rng(0)
FEATURES = RNG.gamma(2.0, size=(300, 24))
LABELS = (FEATURES[:, :4] + RNG.normal(size=(300, 4))).argmax(1)
X, Y = torch.from_numpy(FEATURES), torch.from_numpy(LABELS)


def sklearn_votes(k: int, temperature: float) -> KNeighborsClassifier:
    """Euclidean distances on the unit sphere: similarity = 1 - distance^2 / 2."""

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances**2 / 2) / temperature)

    return KNeighborsClassifier(k, weights=weights, algorithm="brute")


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (5, 1.0)])
def test_votes_are_scikit_learns(k: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_CHUNK", 70)
    unit = normalize(FEATURES)
    found = neighbour_votes(X[200:], X[:200], Y[:200], 4, k, temperature)
    expected = sklearn_votes(k, temperature).fit(unit[:200], LABELS[:200]).predict_proba(unit[200:])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    alone = cross_val_predict(sklearn_votes(k, temperature), unit, LABELS, cv=LeaveOneOut(), method="predict_proba")
    np.testing.assert_allclose(left_out_votes(X, Y, 4, None, k, temperature), alone, atol=1e-4)


def test_a_block_does_not_vote_for_its_own() -> None:
    blocks = RNG.integers(0, 7, 300)
    expected = cross_val_predict(
        sklearn_votes(20, 0.07),
        normalize(FEATURES),
        LABELS,
        groups=blocks,
        cv=LeaveOneGroupOut(),
        method="predict_proba",
    )
    np.testing.assert_allclose(left_out_votes(X, Y, 4, torch.from_numpy(blocks)), expected, atol=1e-4)


def test_the_defaults_are_dinos() -> None:
    assert torch.equal(neighbour_votes(X, X, Y, 4), neighbour_votes(X, X, Y, 4, k=20, temperature=0.07))


def test_of_few_references_all_vote() -> None:
    votes = neighbour_votes(X, X[:3], torch.tensor([0, 0, 2]), 4)
    assert (votes[:, [1, 3]] == 0).all() and (votes[:, [0, 2]] > 0).all()
    torch.testing.assert_close(votes.sum(1), torch.ones(300))
    found = left_out_votes(X[:3], torch.tensor([0, 0, 2]), 4, torch.tensor([5, 5, 7]))
    assert found[:2].tolist() == [[0, 0, 1, 0]] * 2 and found[2, 0] == pytest.approx(1)


def test_accuracies_are_those_of_scikit_learns_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = normalize(FEATURES)
    parts = [Features(X[:150].bfloat16().double(), Y[:150]), Features(X[150:200].bfloat16().double(), Y[150:200])]
    unit[:200] = normalize(X[:200].bfloat16().double().numpy())
    predicted = sklearn_votes(20, 0.07).fit(unit[:200], LABELS[:200]).predict(unit[200:])
    found = neighbour_accuracies(Features(X[200:], Y[200:]), parts, 4)
    assert found == pytest.approx(
        {
            "top1": accuracy_score(LABELS[200:], predicted),
            "mean_per_class": balanced_accuracy_score(LABELS[200:], predicted),
        }
    )
    monkeypatch.setattr(neighbours, "MOST_PRODUCTS", 100 * 200 * 24 - 1)
    assert neighbour_accuracies(Features(X[200:], Y[200:]), parts, 4) is None
