"""Learning curves: which images are drawn, what is fitted to them, the laws, and when there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from sklearn.linear_model import LogisticRegression, Ridge

from transfer.folds import draw_folds
from transfer.probe.cross_validation import ChosenHead, cross_validate, predict_from_some
from transfer.probe.features import Features
from transfer.probe.learning_curve import (
    FEWEST_SIZES,
    Extrapolation,
    Measured,
    draw_order,
    extrapolate,
    fit_power_law,
    measure_curve,
)
from transfer.statistics import mean_per_class, top1

LABELS = np.repeat([0, 1, 2], [10, 40, 150])


def blobs(num_images: int, num_features: int, noise: float | None = None) -> Features:
    rng = np.random.default_rng(0)
    labels = np.arange(num_images) % 3
    noise = 0.7 * num_features**0.5 if noise is None else noise
    features = rng.normal(size=(3, num_features))[labels] + noise * rng.normal(size=(num_images, num_features))
    return Features(torch.from_numpy(features).float(), torch.from_numpy(labels))


# The draws


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9, 1.0])
def test_a_draw_has_each_classs_share(share: float) -> None:
    counts = np.bincount(LABELS)
    for seed in range(5):
        order = draw_order(LABELS, None, seed)
        assert order.min() >= 0 and order.max() < 1
        drawn = np.bincount(LABELS[order < share], minlength=3)
        assert (np.abs(drawn - share * counts) < 1).all()
    assert not np.array_equal(order, draw_order(LABELS, None, 0))


def test_a_group_is_drawn_whole() -> None:
    groups = np.arange(200) // 5  # all of one class
    order = draw_order(LABELS, groups, 0)
    assert len(set(order)) == 40
    assert all(len(set(order[groups == group])) == 1 for group in groups)
    drawn = np.bincount(LABELS[order < 0.5])
    assert (np.abs(drawn - [5, 20, 75]) <= 5).all()


def test_sizes_halve_in_two_steps_down_to_two_images_of_a_class() -> None:
    for num_images, expected in ((150, 5), (24, 4), (5, 1)):
        found = measure_curve(blobs(num_images, 4), 3, ChosenHead("ridge", 1.0, 1.0, 4), 2)
        shares = found.sizes / found.sizes[-1]
        assert len(shares) == expected and found.sizes[-1] == num_images / 2
        assert shares == pytest.approx(2 ** (np.arange(1 - expected, 1) / 2), abs=2 / num_images)


def test_sizes_are_those_that_few_groups_allow() -> None:
    """Of three groups of a class, few draws of a small share have images of two classes in all folds."""
    groups = np.arange(90) % 3 + 3 * (np.arange(90) % 9 // 3)
    found = measure_curve(blobs(90, 4), 3, ChosenHead("ridge", 1.0, 1.0, 4), 3, groups=groups)
    assert 1 <= len(found.sizes) < FEWEST_SIZES and found.sizes[-1] == 60
    assert "a law needs 4 sizes" in str(extrapolate(found))


# The fits


@pytest.mark.parametrize("head", ["logistic", "ridge"])
@pytest.mark.parametrize(("num_features", "logit_adjustment"), [(5, False), (150, False), (5, True)])
def test_fits_to_all_images_predict_what_cross_validation_predicts(
    head: str, num_features: int, logit_adjustment: bool
) -> None:
    data = blobs(160, num_features)
    kept = (data.labels < 2) | (torch.arange(160) % 4 == 0)  # of the last class few
    data = Features(data.features[kept], data.labels[kept])
    folds = draw_folds(data.labels.numpy(), 4)
    found = predict_from_some(data, 3, folds[0], np.ones(120, bool), head, logit_adjustment=logit_adjustment)
    expected = cross_validate([data], 3, folds, heads=[head], logit_adjustment=logit_adjustment).predictions[0]
    assert np.mean(found == expected) > 0.99 and 0.4 < np.mean(found == data.labels.numpy()) < 0.99


@pytest.mark.parametrize("head", ["logistic", "ridge"])
@pytest.mark.parametrize("num_features", [5, 150])
def test_fits_to_some_images_are_scikit_learns(head: str, num_features: int) -> None:
    data = blobs(120, num_features)
    fold_of = draw_folds(data.labels.numpy(), 4)[0]
    kept = draw_order(data.labels.numpy(), None, 3) < 0.4
    found = predict_from_some(data, 3, fold_of, kept, head, penalties=[10.0])
    features, labels = data.features.numpy(), data.labels.numpy()
    expected = np.empty(120, np.int64)
    for fold in range(4):
        mine, some = fold_of == fold, kept & (fold_of != fold)
        if head == "logistic":
            expected[mine] = (
                LogisticRegression(C=0.1, max_iter=1000).fit(features[some], labels[some]).predict(features[mine])
            )
        else:
            fit = Ridge(alpha=10.0).fit(features[some], np.eye(3)[labels[some]])
            expected[mine] = fit.predict(features[mine]).argmax(1)
    assert np.mean(found == expected) > 0.98


def test_a_measured_curve_rises_with_the_images() -> None:
    found = measure_curve(blobs(300, 40, noise=4.0), 3, ChosenHead("ridge", 100.0, 1.0, 40), 3)
    assert found.right.shape == (5, 5, 300)
    assert found.sizes == pytest.approx(200 * 2 ** (np.arange(-4, 1) / 2), abs=1)
    accuracies = found.accuracy(found.of_classes).mean(0)
    assert accuracies[-1] > accuracies[0] + 0.05
    gain, interval = told(extrapolate(found)).gain(300, 600)
    assert 0 <= interval.low < gain < interval.high < 0.2


def told(found: Extrapolation | str) -> Extrapolation:
    assert isinstance(found, Extrapolation), found
    return found


# Accuracies


def measured(accuracies: Any, num_images: int = 2000, draws: int = 4, **fields: Any) -> Measured:
    """Predictions that are right with these probabilities, by size; an image that is easy for one draw is for all."""
    rng = np.random.default_rng(1)
    ease, noise = rng.random(num_images), rng.normal(0, 0.05, (draws, len(accuracies), num_images))
    right = ease + noise < np.asarray(accuracies)[:, None]
    sizes = 100 * 2 ** (np.arange(len(accuracies)) / 2)
    defaults = {"labels": np.arange(num_images) % 4, "groups": None, "metric": "top1"}
    return Measured(sizes, right, **{**defaults, **fields})


def test_accuracies_are_those_of_the_predictions() -> None:
    labels = np.sort(np.random.default_rng(0).choice(4, 500, p=[0.5, 0.3, 0.19, 0.01]))
    for metric, function in (("top1", top1), ("mean_per_class", mean_per_class)):
        one = measured([0.4, 0.6], 500, labels=labels, metric=metric)
        found = one.accuracy(one.of_classes)
        for draw in range(4):
            for size in range(2):
                predicted = np.where(one.right[draw, size], labels, (labels + 1) % 4)
                assert found[draw, size] == pytest.approx(function(labels, predicted))
        assert one.accuracy(one.resampled).mean(0) == pytest.approx(found.mean(0), abs=0.01)


def test_resampled_accuracies_vary_as_binomials_and_more_in_groups() -> None:
    alone = measured([0.3, 0.8], draws=2)
    spread = alone.accuracy(alone.resampled).std(0)
    assert spread == pytest.approx(np.sqrt([0.21, 0.16]) / np.sqrt(2000), rel=0.2)
    hard = np.sort(np.random.default_rng(0).random(2000))
    grouped = measured([0.3, 0.8], draws=2, groups=np.arange(2000) // 20)
    grouped.right[:] = hard < 0.5
    assert grouped.accuracy(grouped.resampled).std(0)[0] > 3 * np.sqrt(0.25 / 2000)


# The laws


def law(images: NDArray[np.float64], a: float, b: float, c: float) -> NDArray[np.float64]:
    return 1 - a - b * images**-c


@pytest.mark.parametrize("truth", [(0.1, 2.0, 0.5), (0.0, 1.0, 0.3), (0.2, 0.0, 1.0), (0.05, 3.0, 0.9)])
def test_a_law_is_recovered(truth: tuple[float, float, float]) -> None:
    images = 50 * 2.0 ** np.arange(7)
    found = fit_power_law(images, law(images, *truth))
    assert found.accuracy(images) == pytest.approx(law(images, *truth), abs=5e-4)
    assert found.accuracy([100_000.0]) == pytest.approx(law(np.array([100_000.0]), *truth), abs=0.01)


@pytest.mark.parametrize("asymptote", [True, False])
def test_a_fit_to_noise_is_scipys(asymptote: bool) -> None:
    rng, images = np.random.default_rng(0), 40 * 2 ** (np.arange(7) / 2)
    rows = law(images, 0.1, 1.5, 0.4) + rng.normal(0, 0.01, (20, 7))
    found = fit_power_law(images, rows, asymptote)
    sigma = 1 / np.sqrt(np.arange(1, 8))
    for row, (a, b, c) in zip(rows, found.parameters, strict=True):
        assert a >= 0 and b >= 0 and (asymptote or a == 0)
        bounds = ([0, 0, 0.02], [1 if asymptote else 1e-12, 100, 3])
        start = (0.1 if asymptote else 1e-13, 1.5, 0.4)
        best, _ = curve_fit(law, images, row, start, sigma=sigma, bounds=bounds, max_nfev=10_000)
        ours, theirs = (float(np.sum(((law(images, *fit) - row) / sigma) ** 2)) for fit in ((a, b, c), best))
        assert ours <= 1.03 * theirs + 1e-6


def test_what_twice_the_images_bring_is_within_the_interval() -> None:
    truth = (0.08, 2.0, 0.5)
    one = measured(law(100 * 2 ** (np.arange(7) / 2), *truth), 5000)
    found = told(extrapolate(one))
    gain, interval = found.gain(800, 1600)
    true = float(np.diff(law(np.array([800.0, 1600.0]), *truth))[0])
    assert interval.low < true < interval.high and gain == pytest.approx(true, abs=0.01)
    _, interval = found.accuracy(1600)
    assert interval.low < law(np.array([1600.0]), *truth)[0] < interval.high
    assert interval.high - interval.low < 0.1


@pytest.mark.parametrize(
    ("accuracies", "why"),
    [
        ([0.3, 0.5, 0.6], "a law needs 4 sizes of at least 2 images per class on average, but there are 3"),
        ([0.8, 0.9, 0.95, 2.0], "all images are predicted right"),
        ([0.5] * 6, "from 100 to 566 images accuracy changes by"),
        ([0.6, 0.6, 0.6, 0.6, 0.6, 0.9], "follow no power law"),
        ([0.8, 0.7, 0.6, 0.5], "no more than the interval"),
    ],
)
def test_no_law_is_made_up(accuracies: list[float], why: str) -> None:
    found = extrapolate(measured(accuracies))
    assert isinstance(found, str) and why in found
