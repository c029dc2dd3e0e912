"""Out-of-fold losses, choices and predictions against scikit-learn's, penalty by penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression as Sklearn
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from transfer.folds import draw_folds
from transfer.probe.cross_validation import TEMPERATURES, CrossValidation, cross_validate, fit_head
from transfer.probe.features import Features
from transfer.statistics import mean_per_class, share_interval, top1

PENALTIES = (1e3, 1e2, 10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4)


def images(num_images: int, num_features: int, noise: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(num_images, num_features))
    scores = features[:, :3] + noise * rng.normal(size=(num_images, 3)) + (0.5, 0, -0.5)
    return features, scores.argmax(1)


def features_of(features: NDArray[np.float64], labels: NDArray[np.int64]) -> Features:
    return Features(torch.from_numpy(features).float(), torch.from_numpy(labels))


def validate(
    num_images: int,
    num_features: int,
    noise: float = 1.0,
    repeats: int = 1,
    heads: Sequence[str] = ("logistic", "ridge"),
) -> CrossValidation:
    features, labels = images(num_images, num_features, noise)
    folds = draw_folds(labels, 4, repeats)
    return cross_validate([features_of(features, labels)], 3, folds, heads=heads, penalties=PENALTIES)


def sklearn_head(head: str, penalty: float) -> Sklearn | RidgeClassifier:
    return Sklearn(C=1 / penalty, tol=1e-8, max_iter=5000) if head == "logistic" else RidgeClassifier(penalty)


def losses_at(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[float, NDArray[np.float64]]:
    """Each image's loss at each temperature, with smoothed targets."""
    share = 1 / (len(labels) + 2)
    losses = {}
    for t in TEMPERATURES:
        each = -log_softmax(logits / t, axis=1)
        losses[t] = (1 - share) * each[np.arange(len(labels)), labels] + share * each.mean(1)
    return losses


@pytest.mark.parametrize("head", ["logistic", "ridge"])
@pytest.mark.parametrize(("num_images", "num_features"), [(200, 5), (60, 150)])
def test_losses_choices_and_predictions_are_those_of_scikit_learn(
    head: str, num_images: int, num_features: int
) -> None:
    features, labels = images(num_images, num_features)
    features = features.astype(np.float32).astype(np.float64)
    found = validate(num_images, num_features, heads=[head])
    split, scale = PredefinedSplit(found.folds[0]), 1 if head == "logistic" else 0.5  # its targets are -1 and 1
    logits = {
        penalty: scale
        * cross_val_predict(sklearn_head(head, penalty), features, labels, cv=split, method="decision_function")
        for penalty in found.losses[head]
    }
    losses = {(penalty, t): loss for penalty in logits for t, loss in losses_at(logits[penalty], labels).items()}
    for penalty, loss in found.losses[head].items():
        assert loss == pytest.approx(min(losses[penalty, t].mean() for t in TEMPERATURES), rel=1e-3), penalty
    best = min(losses, key=lambda key: losses[key].mean())
    assert (found.choice.head, found.choice.penalty, found.choice.temperature) == (head, *best)
    for fold, choice in enumerate(found.fold_choices[0]):
        mine = found.folds[0] == fold
        assert (choice.penalty, choice.temperature) == min(losses, key=lambda key: losses[key][~mine].mean())
        expected = softmax(logits[choice.penalty][mine] / choice.temperature, axis=1)
        np.testing.assert_allclose(found.probabilities[mine], expected, atol=3e-3)
    assert found.value == pytest.approx(top1(labels, found.predictions[0]))
    assert found.interval == share_interval(found.value, num_images)
    whole = sklearn_head(head, found.choice.penalty).fit(features, labels)
    expected = softmax(scale * whole.decision_function(features) / found.choice.temperature, axis=1)
    assert found.fit.weight.shape == (3, num_features)
    np.testing.assert_allclose(found.fit.logits(torch.from_numpy(features)).softmax(1), expected, atol=3e-3)


@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_adjustment_changes_no_choice_and_takes_the_log_shares_of_the_other_folds(head: str) -> None:
    features, labels = images(300, 5)
    kept = np.flatnonzero((labels > 0) | (np.arange(300) % 8 == 0))
    features, labels = features[kept], labels[kept]
    folds = draw_folds(labels, 4, 2)
    found, plain = (
        cross_validate(
            [features_of(features, labels)],
            3,
            folds,
            "mean_per_class",
            heads=[head],
            penalties=PENALTIES[1:4],
            logit_adjustment=adjusts,
        )
        for adjusts in (True, False)
    )
    assert found.choice == replace(plain.choice, logit_adjustment=True) and found.losses == plain.losses
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)  # which doubt labels
    for repeat, fold_of in enumerate(folds):
        for fold in range(4):
            mine = fold_of == fold
            shares = np.bincount(labels[~mine], minlength=3) / (~mine).sum()
            expected = plain.logits[repeat, mine].numpy() - np.log(shares)
            np.testing.assert_allclose(found.logits[repeat, mine], expected, rtol=1e-5, atol=1e-5)
    assert found.value == pytest.approx(np.mean([mean_per_class(labels, each) for each in found.predictions]))
    assert found.value > plain.value + 0.05
    whole = features_of(features, labels)
    expected = plain.fit.logits(whole.features).numpy() - np.log(np.bincount(labels) / len(labels))
    np.testing.assert_allclose(found.fit.logits(whole.features), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fit_head([whole], 3, found.choice).bias, found.fit.bias)


def test_the_head_with_the_lowest_loss_is_taken() -> None:
    both = validate(200, 5)
    alone = [validate(200, 5, heads=[head]) for head in ("logistic", "ridge")]
    assert both.losses == {**alone[0].losses, **alone[1].losses}
    lowest = [min(one.losses[one.choice.head].values()) for one in alone]
    assert lowest[0] != lowest[1]
    assert both.choice == alone[int(np.argmin(lowest))].choice


def test_of_more_features_those_that_tell_nothing_are_left_out_and_others_taken() -> None:
    features, labels = images(200, 5)
    more = np.concatenate([features, np.random.default_rng(7).normal(size=(200, 40))], 1)
    folds = draw_folds(labels, 5)
    for values, widths, best in ((more, [5, 45], 5), (features, [2, 5], 5), (features, [5, 2], 5), (more, [5], 5)):
        found = cross_validate([features_of(values, labels)], 3, folds, heads=["ridge"], widths=widths)
        alone = cross_validate([features_of(features, labels)], 3, folds, heads=["ridge"])
        assert found.choice.num_features == found.fit.weight.shape[1] == best
        assert found.losses["ridge"] == pytest.approx(alone.losses["ridge"])
        assert found.choice.penalty == alone.choice.penalty


def test_images_that_are_all_right_leave_doubt() -> None:
    labels = np.arange(60) % 3
    centres = 10 * np.eye(3)
    data = features_of(centres[labels] + np.random.default_rng(0).normal(size=(60, 3)), labels)
    found = cross_validate([data], 3, draw_folds(labels, 5))
    assert found.value == 1
    sure = found.fit.logits(data.features).softmax(1).max(1).values.mean()
    assert 0.9 < sure < 1 - 1 / 1000  # by Laplace's rule 1 in 62 would be wrong


def test_the_path_ends_where_weaker_penalties_only_lose() -> None:
    found = validate(200, 5, noise=5.0, heads=["logistic"])
    losses = found.losses["logistic"]
    assert 5 <= len(losses) < len(PENALTIES) and list(losses) == list(PENALTIES[: len(losses)])
    assert min(losses, key=lambda penalty: losses[penalty]) == found.choice.penalty


def test_labels_without_meaning_are_predicted_by_chance() -> None:
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.arange(200) % 2)
    data = features_of(rng.normal(size=(200, 300)), labels)
    found = cross_validate([data], 2, draw_folds(labels, 5))
    assert found.interval.low < 0.5 < found.interval.high


def test_repeats_are_averaged() -> None:
    found = validate(120, 5, repeats=3)
    _, labels = images(120, 5)
    assert found.logits.shape == (3, 120, 3) and found.predictions.shape == (3, 120)
    assert found.value == pytest.approx(np.mean([top1(labels, one) for one in found.predictions]))
    torch.testing.assert_close(torch.from_numpy(found.probabilities), found.logits.softmax(2).mean(0))
    alone = validate(120, 5)
    assert torch.equal(found.logits[0], alone.logits[0]) and found.fold_choices[0] == alone.fold_choices[0]


def test_a_view_twice_is_a_view_once() -> None:
    features, labels = images(80, 5)
    folds, once = draw_folds(labels, 4), features_of(features, labels)
    a, b = (cross_validate([once] * count, 3, folds, penalties=PENALTIES) for count in (1, 2))
    torch.testing.assert_close(a.logits, b.logits, atol=5e-3, rtol=1e-3)
    assert a.choice == b.choice


def test_predicted_is_the_first_view_and_fitted_are_all() -> None:
    features, labels = images(80, 5)
    folds, first = draw_folds(labels, 4), features_of(features, labels)
    noise = features_of(np.random.default_rng(5).normal(size=(80, 5)), labels)
    one, both = (
        cross_validate(views, 3, folds, heads=["ridge"], penalties=[1.0]) for views in ([first], [first, noise])
    )
    weights = [found.fit.weight * found.choice.temperature for found in (one, both)]
    assert weights[1].norm() < weights[0].norm()
    shrunk = cross_validate([noise, first], 3, folds, heads=["ridge"], penalties=[1.0])
    torch.testing.assert_close(shrunk.fit.weight * shrunk.choice.temperature, weights[1])
    assert both.value > shrunk.value


def test_groups_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    groups = np.arange(160) // 8
    centres = rng.normal(size=(20, 6))
    labels = (centres[:, 0] > 0).astype(np.int64)[groups]
    data = features_of(centres[groups] + 0.1 * rng.normal(size=(160, 6)), labels)
    folds = draw_folds(labels, 4, groups=groups)
    found, blind = (cross_validate([data], 2, folds, "mean_per_class", given) for given in (groups, None))
    assert found.value == pytest.approx(mean_per_class(labels, found.predictions[0]))
    assert blind.value == pytest.approx(found.value)
    assert found.interval.high - found.interval.low > blind.interval.high - blind.interval.low
