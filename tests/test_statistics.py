"""Intervals against scipy, scikit-learn and counting by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from scipy.stats import binomtest, spearmanr
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, f1_score

from transfer.statistics import (
    mean_interval,
    mean_per_class,
    mean_per_class_interval,
    multilabel_intervals,
    paired_bootstrap,
    rank_correlation,
    share_interval,
    top1,
)

Labels = NDArray[np.int64]


def noisy(labels: Labels, share_right: float, rng: np.random.Generator) -> Labels:
    """Predictions that are right with a probability, else the next class."""
    return np.where(rng.random(len(labels)) < share_right, labels, (labels + 1) % 5)


def runs(num_images: int, right_a: float, right_b: float, seed: int = 0) -> tuple[Labels, Labels, Labels]:
    """Labels of five classes, the last of them rare, and two runs' predictions."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, size=num_images, p=[0.3, 0.3, 0.2, 0.15, 0.05])
    return labels, noisy(labels, right_a, rng), noisy(labels, right_b, rng)


def test_the_interval_over_seeds_is_students() -> None:
    mean = mean_interval([1.0, 2.0, 3.0])
    # t of 97.5% at 2 degrees of freedom is 4.3027; the standard error is 1 / sqrt(3).
    assert (mean.value, mean.count) == (2.0, 3)
    assert mean.low == pytest.approx(2 - 4.302653 / 3**0.5) and mean.high == pytest.approx(2 + 4.302653 / 3**0.5)
    values = [97.1, 97.6, 97.2, 96.9, 97.4]
    found = mean_interval(values, confidence=0.9)
    low, high = scipy.stats.t.interval(0.9, 4, np.mean(values), scipy.stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.half_width == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval_and_equal_seeds_an_empty_one() -> None:
    alone = mean_interval([97.0])
    assert (alone.value, alone.low, alone.high, alone.half_width) == (97.0, None, None, None)
    assert mean_interval([97.0, 97.0]).half_width == 0.0


def test_accuracies_are_scikit_learns() -> None:
    labels, predictions, _ = runs(500, 0.8, 0.5)
    assert top1(labels, predictions) == pytest.approx(accuracy_score(labels, predictions))
    assert mean_per_class(labels, predictions) == pytest.approx(balanced_accuracy_score(labels, predictions))
    # A class without images counts neither as zero nor at all, whatever is predicted.
    assert mean_per_class(np.array([0, 0, 3]), np.array([0, 4, 3])) == pytest.approx(0.75)


def test_the_top1_interval_is_scipys_bootstrap() -> None:
    labels, a, b = runs(400, 0.85, 0.8)
    found = paired_bootstrap(labels, a, b)
    gains = (a == labels).astype(float) - (b == labels)
    expected = scipy.stats.bootstrap(
        (gains,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1), batch=1000
    )
    low, high = expected.confidence_interval
    assert found.value == pytest.approx(top1(labels, a) - top1(labels, b))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))
    assert found.num_better / 10_000 == pytest.approx(np.mean(expected.bootstrap_distribution > 0), abs=0.02)


def test_the_interval_of_the_mean_per_class_is_that_of_resampled_images() -> None:
    labels, a, b = runs(60, 0.85, 0.7)  # the rare class is missing from some resamples
    found = paired_bootstrap(labels, a, b, "mean_per_class")
    rng = np.random.default_rng(1)
    drawn = rng.integers(60, size=(3000, 60))
    assert any(len(set(labels[rows])) < 5 for rows in drawn)
    expected = [mean_per_class(labels[r], a[r]) - mean_per_class(labels[r], b[r]) for r in drawn]
    assert found.value == pytest.approx(mean_per_class(labels, a) - mean_per_class(labels, b))
    low, high = np.quantile(expected, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_95_of_100_intervals_hold_the_true_difference(metric: str) -> None:
    found = [
        paired_bootstrap(*runs(400, 0.85, 0.80, seed), metric, num_resamples=500)  # type: ignore[arg-type]
        for seed in range(300)
    ]
    covered = np.mean([one.low <= 0.05 <= one.high for one in found])
    assert 0.91 <= covered <= 0.98


def test_equal_runs_differ_in_no_resample() -> None:
    labels, a, _ = runs(100, 0.8, 0.8)
    for metric in ("top1", "mean_per_class"):
        found = paired_bootstrap(labels, a, a, metric)  # type: ignore[arg-type]
        assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)
        assert (found.num_better, found.num_equal, found.num_resamples) == (0, 10_000, 10_000)


def test_what_cancels_out_is_as_good() -> None:
    # A gains an image in each of classes 0 and 1, B two in class 2; thirds are no binary fractions.
    labels = np.repeat([0, 1, 2], 3)
    a, b = labels.copy(), labels.copy()
    b[[0, 3]], a[[6, 7]] = 9, 9
    found = paired_bootstrap(labels, a, b, "mean_per_class")
    assert found.value == 0 and found.num_equal > 0


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 0), (1, 0), (0, 0), (5, 2), (10, 2)])
def test_the_p_value_of_few_different_images_is_mcnemars_exact_one(only_a: int, only_b: int) -> None:
    labels = np.zeros(30, np.int64)
    a, b = labels.copy(), labels.copy()
    b[:only_a], a[only_a : only_a + only_b] = 1, 1
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert paired_bootstrap(labels, a, b).p_value == pytest.approx(expected)


def test_the_p_value_of_many_different_images_is_near_mcnemars() -> None:
    labels, a, b = runs(400, 0.85, 0.8)
    found = paired_bootstrap(labels, a, b)
    expected = binomtest(int(np.sum((a == labels) & (b != labels))), int(np.sum((a == labels) != (b == labels)))).pvalue
    assert found.p_value == pytest.approx(expected, abs=0.02)
    swapped = paired_bootstrap(labels, b, a)
    assert swapped.value == -found.value and swapped.p_value == pytest.approx(found.p_value, abs=0.02)


def test_three_images_that_one_run_alone_gets_right_prove_nothing_per_class_either() -> None:
    labels = np.array([0, 1, 2])
    assert paired_bootstrap(labels, labels, labels + 1, "mean_per_class").p_value == pytest.approx(0.25)


def test_the_same_seed_gives_the_same_interval() -> None:
    data = runs(200, 0.85, 0.8)
    assert paired_bootstrap(*data) == paired_bootstrap(*data)
    assert paired_bootstrap(*data) != paired_bootstrap(*data, seed=1)


@pytest.mark.parametrize(("right", "images"), [(0, 3), (1, 3), (3, 3), (97, 100), (500, 1000)])
def test_the_interval_of_a_share_is_wilsons(right: int, images: int) -> None:
    expected = binomtest(right, images).proportion_ci(method="wilson")
    found = share_interval(right / images, images)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_mean_over_classes_is_as_uncertain_as_its_small_classes_make_it() -> None:
    assert mean_per_class_interval(0.9, [50, 50, 0]) == share_interval(0.9, 100)
    uneven = mean_per_class_interval(0.9, [95, 5])
    assert uneven == share_interval(0.9, 4 / (1 / 95 + 1 / 5)) and uneven.low < share_interval(0.9, 100).low
    assert mean_per_class_interval(1.0, [1, 1, 1]).low < 0.5  # three images tell little


def test_several_labels_are_resampled_by_image() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((80, 3)) < (0.5, 0.3, 0.1)
    probabilities = np.round(0.4 * labels + 0.6 * rng.random((80, 3)), 1).astype(np.float32)  # many are equal
    found = multilabel_intervals(labels, probabilities, num_resamples=300)
    f1, precision = [], []
    for _ in range(300):
        drawn = rng.integers(80, size=80)
        f1.append(f1_score(labels[drawn], probabilities[drawn] > 0.5, average="micro"))
        with_label = labels[drawn].any(0)
        precision.append(average_precision_score(labels[drawn][:, with_label], probabilities[drawn][:, with_label]))
    for name, values in (("f1", f1), ("map", precision)):
        assert (found[name].low, found[name].high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.03)


def exact_p(x: Sequence[float], y: Sequence[float]) -> float:
    """Twice the smaller share of all orders of x whose correlation is at least, or at most, the found one."""
    found = spearmanr(x, y).statistic
    every = [spearmanr(order, y).statistic for order in permutations(x)]
    sides = [np.mean([sign * (value - found) >= -1e-9 for value in every]) for sign in (1, -1)]
    return min(1.0, 2 * float(min(sides)))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1, 2, 3], [0.1, 0.2, 0.3]),
        ([1, 2, 3, 4], [0.3, 0.8, 0.7, 0.4]),
        ([1, 1, 2, 2, 3], [5, 4, 3, 2, 1]),
        ([1, 2, 3, 4, 5, 6], [1, 3, 2, 4, 6, 5]),
    ],
)
def test_a_rank_correlation_of_few_pairs_has_an_exact_p(x: list[float], y: list[float]) -> None:
    found = rank_correlation(x, y)
    assert found.value == pytest.approx(spearmanr(x, y).statistic)
    assert found.p_value == pytest.approx(exact_p(x, y))
    assert found.p_value >= 2 / math.factorial(len(x)) - 1e-9


def test_the_smallest_p_of_three_pairs_is_a_third() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 30]).p_value == pytest.approx(1 / 3)
    assert rank_correlation([1, 2, 3], [30, 20, 10]).p_value == pytest.approx(1 / 3)


def test_the_p_of_many_pairs_is_near_students_and_repeatable() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = x + 3 * rng.normal(size=40)
    found = rank_correlation(x.tolist(), y.tolist())
    assert found == rank_correlation(x.tolist(), y.tolist())
    assert found.p_value == pytest.approx(spearmanr(x, y).pvalue, abs=0.02)
