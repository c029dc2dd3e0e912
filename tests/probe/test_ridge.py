"""Ridge regression against scikit-learn's, and its shortcuts against refitting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeCV

from transfer.probe.ridge import RidgeRegression

PENALTIES = (1e3, 1.0, 1e-3)
RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 3


def data(num_features: int) -> tuple[np.ndarray, RidgeRegression]:
    features = RNG.normal(size=(40, num_features)) * RNG.uniform(0.1, 3, num_features) + 2
    return features, RidgeRegression(torch.from_numpy(features), torch.from_numpy(LABELS), 3)


@pytest.mark.parametrize("num_features", [6, 100])
def test_the_path_is_scikit_learns(num_features: int) -> None:
    features, ridge = data(num_features)
    one_hot = np.eye(3)[LABELS]
    tested = RNG.normal(size=(200, num_features)) + 2
    for penalty, fit in zip(PENALTIES, ridge.path(PENALTIES), strict=True):
        expected = Ridge(penalty, solver="svd").fit(features, one_hot)
        np.testing.assert_allclose(fit.weight, expected.coef_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(fit.bias, expected.intercept_, rtol=1e-6, atol=1e-9)
        squares = ((one_hot - expected.predict(features)) ** 2).sum() + penalty * (expected.coef_**2).sum()
        assert fit.penalty == penalty and fit.loss == pytest.approx(squares, rel=1e-6)
        classes = RidgeClassifier(penalty).fit(features, LABELS).predict(tested)
        assert fit.logits(torch.from_numpy(tested)).argmax(1).tolist() == classes.tolist()


@pytest.mark.parametrize("num_features", [6, 100])
def test_leave_one_out_equals_refitting_without_each_image(num_features: int) -> None:
    features, ridge = data(num_features)
    x, y = torch.from_numpy(features), torch.from_numpy(LABELS)
    found = torch.stack(list(ridge.left_out(PENALTIES)))
    for image in range(40):
        others = torch.arange(40) != image
        refitted = RidgeRegression(x[others], y[others], 3).path(PENALTIES)
        for scores, fit in zip(found, refitted, strict=True):
            torch.testing.assert_close(scores[image], fit.logits(x[image : image + 1])[0], rtol=1e-8, atol=1e-8)
    theirs = RidgeCV(PENALTIES, store_cv_results=True).fit(features, np.eye(3)[LABELS])
    squares = (found - torch.eye(3)[y]).square().numpy()
    np.testing.assert_allclose(np.moveaxis(squares, 0, -1), theirs.cv_results_, rtol=1e-6, atol=1e-8)


def test_a_block_that_is_left_out_equals_refitting_without_it() -> None:
    features, ridge = data(100)
    x, y = torch.from_numpy(features), torch.from_numpy(LABELS)
    blocks = torch.from_numpy(RNG.integers(0, 6, 40))
    found = torch.stack(list(ridge.left_out(PENALTIES, blocks)))
    for block in blocks.unique():
        fits = RidgeRegression(x[blocks != block], y[blocks != block], 3).path(PENALTIES)
        expected = torch.stack([fit.logits(x[blocks == block]) for fit in fits])
        torch.testing.assert_close(found[:, blocks == block], expected, rtol=1e-8, atol=1e-8)
    alone = torch.stack(list(ridge.left_out(PENALTIES, torch.arange(40))))
    torch.testing.assert_close(alone, torch.stack(list(ridge.left_out(PENALTIES))))


def test_a_class_without_an_image_is_never_predicted() -> None:
    features, _ = data(6)
    (fit,) = RidgeRegression(torch.from_numpy(features).float(), torch.from_numpy(LABELS), 5).path([1.0])
    assert fit.weight.shape == (5, 6) and fit.weight.dtype == torch.float64 and fit.weight[3:].abs().max() == 0
    assert set(fit.logits(torch.from_numpy(features)).argmax(1).tolist()) == {0, 1, 2}
