"""The noise of a comparison, against scipy, least squares and tables."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from transfer.experiments.scaling.noise import measure_noise


def anova(scores: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Mean square of the residuals and the p-value of the seeds, by least squares with dummy variables."""
    networks, seeds = scores.shape
    rows = list(product(range(networks), range(seeds)))
    by_network = np.array([[i == k for k in range(networks)] for i, _ in rows], float)
    by_seed = np.array([[j == k for k in range(1, seeds)] for _, j in rows], float)
    squares = []
    for design in (np.hstack([by_network, by_seed]), by_network):
        fit = design @ np.linalg.lstsq(design, scores.ravel(), rcond=None)[0]
        squares.append(float(np.sum((scores.ravel() - fit) ** 2)))
    freedom = (networks - 1) * (seeds - 1)
    f = (squares[1] - squares[0]) / (seeds - 1) / (squares[0] / freedom)
    return squares[0] / freedom, float(stats.f.sf(f, seeds - 1, freedom))


def test_noise_is_what_scipy_and_least_squares_find() -> None:
    rng = np.random.default_rng(0)
    for networks, seeds in ((2, 2), (3, 3), (7, 4), (19, 3)):
        scores = (
            70 + rng.normal(0, 3, (networks, 1)) + rng.normal(0, 2, (1, seeds)) + rng.normal(0, 1, (networks, seeds))
        )
        noise = measure_noise(scores.tolist())
        assert noise is not None and (noise.num_networks, noise.num_seeds) == (networks, seeds)
        expected = stats.f_oneway(*scores)
        assert (noise.f, noise.p_value) == pytest.approx((expected.statistic, expected.pvalue))
        assert noise.within == pytest.approx(math.sqrt(np.mean(scores.var(1, ddof=1))))
        assert noise.between == pytest.approx(scores.mean(1).std(ddof=1))
        assert noise.between_by_noise == pytest.approx(noise.within / math.sqrt(seeds))
        residual, seed_p_value = anova(scores)
        assert noise.paired == pytest.approx(math.sqrt(residual))
        assert noise.seed_p_value == pytest.approx(seed_p_value)
        variance = noise.between**2 - noise.within**2 / seeds  # of the networks, without the noise of their means
        assert noise.icc == pytest.approx(max(0, variance / (variance + noise.within**2)))


def test_two_networks_differ_significantly_where_the_paired_t_test_says_so() -> None:
    first = np.array([50.0, 52.0, 57.0, 51.0])
    second = np.array([51.5, 52.5, 59.5, 51.0])
    noise = measure_noise([first.tolist(), second.tolist()])
    assert noise is not None
    for shift, is_significant in ((noise.significant() + 1e-9, True), (noise.significant() - 1e-9, False)):
        moved = first - first.mean() + second.mean() + shift
        assert (stats.ttest_rel(moved, second).pvalue < 0.05) == is_significant
    assert noise.significant_for_all() == pytest.approx(noise.significant(), rel=1e-3)  # any two of two are one pair
    assert noise.significant(16) == pytest.approx(stats.t.ppf(0.975, 15) * noise.paired * math.sqrt(2 / 16))


def test_any_two_of_three_need_tukeys_quantile() -> None:
    noise = measure_noise([[1, 2, 4], [3, 3, 3], [5, 9, 7]])
    assert noise is not None
    # Of any table of the studentized range: q(0.95; 3 groups, 4 degrees of freedom) = 5.04.
    assert noise.significant_for_all() == pytest.approx(5.04 * noise.paired / math.sqrt(3), rel=1e-3)


def test_the_seeds_that_a_difference_takes() -> None:
    noise = measure_noise([[50.0, 52.0, 57.0, 51.0], [51.5, 52.5, 59.5, 51.0]])
    assert noise is not None
    # G*Power 3.1, matched pairs, alpha 0.05, power 0.8: 34 pairs for dz = 0.5, 15 for dz = 0.8, 199 for dz = 0.2.
    for effect, seeds in ((0.5, 34), (0.8, 15), (0.2, 199)):
        assert noise.seeds_to_find(effect * noise.paired * math.sqrt(2)) == seeds
    assert noise.seeds_to_find(-0.5 * noise.paired * math.sqrt(2)) == 34
    assert noise.seeds_to_find(1e6) == 2 and noise.seeds_to_find(0) is None
    exact = measure_noise([[1.0, 1.0], [2.0, 2.0]])
    assert exact is not None and exact.seeds_to_find(1) == 2 and exact.seeds_to_find(0) is None


def test_noise_of_odd_scores() -> None:
    assert measure_noise([]) is measure_noise([[1.0, 2.0]]) is measure_noise([[1.0], [2.0]]) is None
    equal = measure_noise([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]])
    assert equal is not None and (equal.within, equal.between, equal.icc) == (0, 0, 0)
    assert equal.p_value > 0.3 and equal.significant_for_all() == 0
    exact = measure_noise([[0.1, 0.1, 0.1], [0.3, 0.3, 0.3]])
    assert exact is not None and (exact.p_value, exact.icc, exact.within) == (0, 1, 0)
