"""Intervals against scipy, scikit-learn and counting by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from scipy.stats import binomtest, spearmanr
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from transfer.statistics import (
    holm,
    mean_interval,
    mean_per_class,
    mean_per_class_interval,
    rank_correlation,
    share_interval,
    top1,
)


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
    rng = np.random.default_rng(0)
    labels = rng.choice(5, size=500, p=[0.3, 0.3, 0.2, 0.15, 0.05])
    predictions = np.where(rng.random(500) < 0.8, labels, (labels + 1) % 5)
    assert top1(labels, predictions) == pytest.approx(accuracy_score(labels, predictions))
    assert mean_per_class(labels, predictions) == pytest.approx(balanced_accuracy_score(labels, predictions))
    # A class without images counts neither as zero nor at all, whatever is predicted.
    assert mean_per_class(np.array([0, 0, 3]), np.array([0, 4, 3])) == pytest.approx(0.75)


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


def test_p_values_are_corrected_by_holm() -> None:
    # By hand: 4 x 0.01, 3 x 0.02, 2 x 0.03 in order of size, and never below a smaller one's.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.001, 0.9]) == pytest.approx([0.8, 0.003, 0.9])
    assert holm([0.7, 0.6]) == [1.0, 1.0] and holm([0.04]) == [0.04] and holm([]) == []
