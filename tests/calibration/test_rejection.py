"""Which images are answered: counts by hand, the promised shares in simulations, scikit-learn's curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from transfer.calibration.quantiles import check_share, images_needed, place
from transfer.calibration.rejection import (
    accept_error,
    accept_share,
    combined_ranks,
    error_bound,
    ranks,
    risk_coverage,
)
from transfer.errors import BadValue


def test_a_rank_is_the_share_of_val_at_most_as_high() -> None:
    of_val = np.array([0.3, 0.1, 0.2, 0.2])
    assert ranks(np.array([0.05, 0.1, 0.2, 0.25, 0.9]), of_val).tolist() == [0, 0.25, 0.75, 0.75, 1]
    assert ranks(of_val, of_val, own=1).tolist() == [0.75, 0, 0.5, 0.5]


def test_distance_has_a_say_for_strangers_only() -> None:
    by_probability, by_distance = np.array([0.5, 0.5, 0.01, 0.9]), np.array([0.0, 0.03, 0.9, 0.02])
    assert combined_ranks(by_probability, by_distance).tolist() == [0.0, 0.5, 0.01, 0.02]


def test_the_threshold_of_a_coverage_is_counted_by_hand() -> None:
    of_val = np.arange(1, 20) / 19
    wrong = np.arange(19) < 3
    found = accept_share(of_val, wrong, 0.8)  # 0.8 * 20 = 16 of 19 answered: from the fourth on
    assert (found.threshold, found.coverage, found.error) == (4 / 19, 16 / 19, 0.0)
    assert accept_share(of_val, None, 0.95).coverage == 1.0


def test_the_mean_coverage_of_further_images_is_the_one_asked_for() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        scores = rng.random(60)
        shares.append((rng.random(50) >= accept_share(scores, None, 0.9).threshold).mean())
    # ceil(61 * 0.9) of 61 places; the standard error is about 0.0012.
    assert np.mean(shares) == pytest.approx(55 / 61, abs=0.005)


def test_the_threshold_of_two_scores_is_counted_by_hand() -> None:
    # Strangers are the images of the two largest distances: 0.025 * 79 = 1.975.
    by_probability, by_distance = np.arange(79.0), np.roll(np.arange(79.0), 40)
    val = combined_ranks(ranks(by_probability, by_probability), ranks(by_distance, by_distance, own=1))
    assert (np.sort(val)[:5] * 79).round().tolist() == [0, 1, 1, 2, 3]
    found = accept_share(val, None, 0.95)  # 0.95 * 80 = 76 of 79 answered: from the fourth on
    assert (found.threshold, found.coverage) == (2 / 79, 76 / 79)
    # A further image is left out at two places of 80 by either score: 4 of 80.
    places = np.arange(-0.5, 79)
    sure = np.ones(80)
    alone = [combined_ranks(ranks(places, by_probability), sure), combined_ranks(sure, ranks(places, by_distance))]
    assert [int((rank < found.threshold).sum()) for rank in alone] == [2, 2]


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.9])
@pytest.mark.parametrize(("count", "coverage"), [(40, 0.9), (60, 0.9), (59, 0.95)])
def test_two_scores_leave_the_mean_coverage_that_was_asked_for(count: int, coverage: float, correlation: float) -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(1500):
        scores = rng.multivariate_normal(np.zeros(2), [[1, correlation], [correlation, 1]], count + 100).T
        (sure, near), (further_sure, further_near) = scores[:, :count], scores[:, count:]
        found = accept_share(combined_ranks(ranks(sure, sure), ranks(near, near, own=1)), None, coverage)
        shares.append((combined_ranks(ranks(further_sure, sure), ranks(further_near, near)) >= found.threshold).mean())
    # At least the share, at most two images of N + 1 more. The standard error is about 0.0013; with `own=0` the mean
    # of independent scores is 0.014 to 0.018 below the share.
    assert coverage - 0.004 < np.mean(shares) < coverage + 2 / (count + 1) + 0.004


def test_too_few_images_are_refused_with_how_many_are_needed() -> None:
    assert [images_needed(share) for share in (0.9, 0.95, 0.99, 0.999, 0.9999)] == [9, 19, 99, 999, 9999]
    for share in (0.9, 0.95, 0.99):
        check_share("coverage", share, images_needed(share))
        with pytest.raises(BadValue, match=f"at least {images_needed(share)} are needed, the run has"):
            check_share("coverage", share, images_needed(share) - 1)
    assert place(19, 0.95) == 19 and place(999, 0.9) == 900


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, math.nan, math.inf])
def test_a_share_lies_between_zero_and_one(value: float) -> None:
    scores, wrong = np.arange(50) / 50, np.zeros(50, bool)
    with pytest.raises(BadValue, match=r"`coverage`=.* above 0 and below 1"):
        accept_share(scores, wrong, value)
    with pytest.raises(BadValue, match=r"`max_error`=.* above 0 and below 1"):
        accept_error(scores, wrong, value)


@pytest.mark.parametrize(("errors", "count"), [(0, 10), (3, 40), (7, 300)])
def test_the_bound_is_that_of_scipys_exact_binomial_interval(errors: int, count: int) -> None:
    interval = binomtest(errors, count, alternative="less").proportion_ci(0.98)
    assert error_bound(errors, count, 0.02) == pytest.approx(interval.high)
    assert error_bound(count, count, 0.02) == 1.0


def test_the_error_rate_asked_for_is_exceeded_in_at_most_one_of_twenty_draws() -> None:
    """Errors become rarer with the rank, so that the rate of each threshold is known."""
    rng = np.random.default_rng(0)
    exceeded = answered = 0
    for _ in range(400):
        scores = rng.random(400)
        wrong = rng.random(400) < 0.3 * (1 - scores)  # above t, 0.15 * (1 - t) are wrong
        try:
            threshold = accept_error(scores, wrong, 0.12).threshold
        except BadValue:
            continue
        answered += 1
        exceeded += 0.15 * (1 - threshold) > 0.12
    assert answered > 200
    assert exceeded / answered <= 0.05


def test_an_error_rate_that_nothing_proves_is_refused() -> None:
    scores = np.arange(100) / 100
    with pytest.raises(
        BadValue, match=r"`max_error`=0.01: .* lowest bound is 0.0\d\d, and at least \d+ without an error"
    ):
        accept_error(scores, np.zeros(100, bool), 0.01)
    assert accept_error(scores, np.zeros(100, bool), 0.1).coverage == 1.0


def test_the_curve_is_counted_by_hand_and_its_order_is_scikit_learns() -> None:
    coverage, error = risk_coverage(np.array([0.2, 0.9, 0.5, 0.7]), np.array([True, False, False, True]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0] and error.tolist() == [0, 1 / 2, 1 / 3, 2 / 4]
    rng = np.random.default_rng(0)
    scores = rng.random(300)
    wrong = rng.random(300) < 1 - scores
    coverage, error = risk_coverage(scores, wrong)
    num_wrong = np.round(error * np.arange(1, 301)).astype(int)
    pairs = np.diff(num_wrong, prepend=0) == 0  # a right answer, behind so many wrong ones
    below = wrong.sum() - num_wrong[pairs]
    area = below.sum() / (wrong.sum() * (~wrong).sum())
    assert area == pytest.approx(roc_auc_score(~wrong, scores))
