"""The optimum against scikit-learn's, penalty by penalty, on easy and ugly data."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression as Sklearn

from transfer.probe import logistic
from transfer.probe.logistic import LogisticRegression
from transfer.probe.penalties import PENALTIES

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def mixture(num_images: int, num_features: int, num_classes: int, seed: int = 0) -> tuple[Array, Labels]:
    """Noisy classes that no plane separates; features of very different scales, off centre."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-0.5, 0.5, num_features)
    latent = rng.normal(size=(num_images, num_features))
    scores = latent @ rng.normal(size=(num_features, num_classes)) + 3 * rng.normal(size=(num_images, num_classes))
    return latent * scales + 2 * scales, scores.argmax(1)


def sklearn_fit(features: Array, labels: Labels, penalty: float) -> tuple[float, Sklearn]:
    """The minimum by scikit-learn, with its own convention: C = 1 / penalty; on scaled features it would be another."""
    model = Sklearn(C=1 / penalty, tol=1e-8, max_iter=20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at its floor of rounding it says that it has not converged
        model.fit(features, labels)
    logits = model.decision_function(features)
    if logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], 1)
    right = log_softmax(logits, axis=1)[np.arange(len(labels)), np.searchsorted(model.classes_, labels)]
    return float(penalty / 2 * (model.coef_**2).sum() - right.sum()), model


def check_path(
    features: Array, labels: Labels, num_classes: int, penalties: tuple[float, ...], tested: Array, dtype: torch.dtype
) -> None:
    data = LogisticRegression(torch.from_numpy(features).to(dtype), torch.from_numpy(labels), num_classes)
    fits = list(data.path(penalties))
    assert [fit.penalty for fit in fits] == list(penalties)
    for fit in fits:
        expected, model = sklearn_fit(features, labels, fit.penalty)
        assert fit.loss <= expected * (1 + 1e-4), fit.penalty  # below it: then scikit-learn has not converged
        assert fit.weight.shape == (num_classes, features.shape[1]) and fit.bias.shape == (num_classes,)
        # The loss that is reported is the loss of the weights that are given.
        logits = features @ fit.weight.numpy().T + fit.bias.numpy()
        present = np.unique(labels)
        right = log_softmax(logits[:, present], axis=1)[np.arange(len(labels)), np.searchsorted(present, labels)]
        weights = fit.weight.numpy()
        squared = ((weights[1] - weights[0]) ** 2 if num_classes == 2 else weights**2).sum()
        own = fit.penalty / 2 * squared - right.sum()
        assert fit.loss == pytest.approx(own, rel=1e-6 if dtype == torch.float64 else 1e-4), fit.penalty
        predictions = fit.logits(torch.from_numpy(tested)).argmax(1).numpy()
        assert (predictions == model.predict(tested)).mean() >= 0.999, fit.penalty


EXTREMES = (1e5, 10.0, 1e-2, 1e-6)


@pytest.mark.parametrize("num_classes", [2, 3, 12])
def test_the_optimum_is_scikit_learns(num_classes: int) -> None:
    features, labels = mixture(3000, 12, num_classes)
    check_path(features[:1000], labels[:1000], num_classes, EXTREMES, features, torch.float64)


def test_so_it_is_when_the_products_are_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "_DOUBLE_LIMIT", 0)
    features, labels = mixture(3000, 12, 4)
    check_path(features[:1000], labels[:1000], 4, EXTREMES, features, torch.float32)


def test_duplicated_and_constant_features() -> None:
    features, labels = mixture(3000, 8, 3)
    ugly = np.concatenate([features, features[:, :3], np.full((3000, 2), 7.0)], 1)
    check_path(ugly[:1000], labels[:1000], 3, (1e5, 1.0, 1e-6), ugly, torch.float64)


def test_a_class_without_an_image_is_never_predicted() -> None:
    features, labels = mixture(3000, 8, 4)
    labels = np.where(labels == 2, 3, labels)
    check_path(features[:1000], labels[:1000], 4, (1e5, 1.0, 1e-6), features, torch.float64)
    (fit,) = LogisticRegression(torch.from_numpy(features), torch.from_numpy(labels), 6).path([1.0])
    assert fit.weight[[2, 4, 5]].abs().max() == 0 and torch.isfinite(fit.bias).all()
    assert set(fit.logits(torch.from_numpy(features)).argmax(1).tolist()) == {0, 1, 3}


def test_one_image_per_class_and_more_features_than_images() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 40))
    # Not 1e5: there all logits are within a hundred-thousandth, and scikit-learn stops before it sees the difference.
    check_path(features, np.arange(12), 12, (100.0, 1.0, 1e-3), features, torch.float64)


def test_separable_classes_at_the_weakest_penalty() -> None:
    features, _ = mixture(100, 150, 3)
    labels = np.arange(100) % 3
    for dtype in (torch.float64, torch.float32):
        data = LogisticRegression(torch.from_numpy(features).to(dtype), torch.from_numpy(labels), 3)
        (fit,) = list(data.path(PENALTIES))[-1:]
        expected, _ = sklearn_fit(features, labels, 1e-6)
        assert fit.loss <= expected * (1 + 1e-4) and fit.loss < 1e-2
        assert torch.equal(fit.logits(torch.from_numpy(features)).argmax(1), torch.from_numpy(labels))


def test_one_class_alone_costs_nothing() -> None:
    (fit,) = LogisticRegression(torch.randn(5, 3), torch.full((5,), 1), 2).path([1.0])
    assert fit.loss == 0 and fit.weight.abs().max() == 0
    assert fit.logits(torch.randn(4, 3)).argmax(1).tolist() == [1] * 4


def test_the_gradient_at_the_optimum_is_zero() -> None:
    # The definition itself, by autograd.
    features, labels = mixture(500, 10, 5)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    for fit in LogisticRegression(x, y, 5).path((1e3, 1.0, 1e-3)):
        weight, bias = fit.weight.clone().requires_grad_(), fit.bias.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y, reduction="sum")
        loss = loss + fit.penalty / 2 * weight.square().sum()
        loss.backward()
        assert loss.item() == pytest.approx(fit.loss, rel=1e-10)
        assert bias.grad is not None and bias.grad.abs().max() < 1e-2
        # What is left to gain, by a step of Newton's method with the whole Hessian.
        flat = torch.cat([weight.detach(), bias.detach()[:, None]], 1).flatten()

        def total(parameters: torch.Tensor, penalty: float = fit.penalty) -> torch.Tensor:
            w = parameters.view(5, 11)
            summed = torch.nn.functional.cross_entropy(x @ w[:, :-1].T + w[:, -1], y, reduction="sum")
            return summed + penalty / 2 * w[:, :-1].square().sum()

        gradient = torch.autograd.functional.jacobian(total, flat)
        hessian = torch.autograd.functional.hessian(total, flat)
        assert gradient @ torch.linalg.lstsq(hessian, gradient, driver="gelsd").solution / 2 < 1e-6 * fit.loss


def test_an_optimum_that_is_not_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "_MAX_NEWTON_STEPS", 1)
    features, labels = mixture(200, 12, 4)
    with pytest.warns(UserWarning, match="penalty 0.1: 1 Newton steps did not reach the optimum"):
        next(LogisticRegression(torch.from_numpy(features), torch.from_numpy(labels), 4).path([0.1]))


def test_a_step_that_leads_nowhere_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogisticRegression, "_newton_step", lambda self, gradient, *_: -1e20 * gradient)
    features, labels = mixture(100, 5, 3)
    (fit,) = LogisticRegression(torch.from_numpy(features), torch.from_numpy(labels), 3).path([1.0])
    shares = np.bincount(labels) / 100
    assert fit.weight.abs().max() == 0 and fit.loss == pytest.approx(-100 * (shares * np.log(shares)).sum())


def test_the_path_extrapolates() -> None:
    features, labels = mixture(1000, 12, 4)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    path = sum(fit.passes for fit in LogisticRegression(x, y, 4).path(PENALTIES))
    alone = sum(next(LogisticRegression(x, y, 4).path([penalty])).passes for penalty in PENALTIES[::11])
    assert path / len(PENALTIES) < alone / 5


def test_bfloat16_features_are_what_they_are() -> None:
    features, labels = mixture(300, 6, 3)
    x, y = torch.from_numpy(features).bfloat16(), torch.from_numpy(labels)
    (half,), (whole,) = (LogisticRegression(t, y, 3).path([1.0]) for t in (x, x.double()))
    assert half.loss == pytest.approx(whole.loss, rel=1e-12)
    assert half.logits(x).dtype == torch.float32


def test_there_are_45_penalties_from_1e5_to_1e_6() -> None:
    assert len(PENALTIES) == 45
    assert PENALTIES[0] == pytest.approx(1e5) and PENALTIES[-1] == pytest.approx(1e-6)
    assert np.diff(np.log10(PENALTIES)) == pytest.approx(-np.full(44, 0.25))
    assert math.isclose(sorted(PENALTIES)[22], 10**-0.5)


def test_features_that_are_almost_all_dead() -> None:
    # torch.linalg.eigh gives up on such a matrix.
    rng = np.random.default_rng(0)
    features = np.zeros((60, 400))
    features[:, ::40] = rng.normal(size=(60, 10))
    labels = (features[:, 0] > 0).astype(np.int64) + (features[:, 40] > 0.5)
    check_path(features, labels, 3, (1.0, 1e-4), features, torch.float64)
    (fit,) = LogisticRegression(torch.zeros(6, 4), torch.tensor([0, 0, 0, 1, 1, 2]), 3).path([1.0])
    assert fit.bias.softmax(0).tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 6])


@pytest.mark.parametrize("num_features", [3, 60, 1280])
def test_the_mean_of_the_biases_stays_where_it_was(num_features: int) -> None:
    # It changes no probability, but a large one leaves the logits few digits in float32.
    features, _ = mixture(45, num_features, 3)
    data = LogisticRegression(torch.from_numpy(0.01 * features).float(), torch.arange(45) % 3, 3)
    for fit in data.path(PENALTIES):
        assert fit.bias.mean().item() == pytest.approx(-math.log(3), abs=1e-6), fit.penalty
