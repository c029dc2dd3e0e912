"""The benchmark of intervals over seeds: what it draws, and what it counts."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import seed_intervals
from benchmarks.seed_intervals import benchmark_seed_intervals, draw, seed_spread, true_accuracy


def test_the_true_accuracy_is_that_of_many_images_and_seeds() -> None:
    found = [np.mean([setting.mean() for setting in draw(10, 0.15, 20_000, seed)[:1]]) for seed in range(5)]
    assert np.mean(found) == pytest.approx(true_accuracy(seed_intervals.QUALITIES[0], 0.15), abs=0.01)
    accuracies = draw(200, 0.15, 5000, 0)[0].mean(1)
    assert accuracies.std() == pytest.approx(seed_spread(0.15), rel=0.2)


def test_every_case_counts_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    found = benchmark_seed_intervals(seeds=[2, 3], images=100, repetitions=3)
    assert found.keys() == {"images", "repetitions", *seed_intervals.SEED}
    cases = {"2 seeds, paired", "2 seeds, not paired", "3 seeds, paired", "3 seeds, not paired"}
    for name in seed_intervals.SEED:
        assert found[name].keys() == {"spread_of_seeds_points", *cases}
        for case in cases:
            assert found[name][case].keys() == set(seed_intervals.METHODS)
            assert all(0 <= method["covers"] <= 1 for method in found[name][case].values())
    assert found["none"]["spread_of_seeds_points"] == 0
