"""Successive halving, and how a result says what was searched."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from transfer.config.protocols import get_protocol
from transfer.errors import UserError
from transfer.experiments.halving import Round, best, describe_search, list_trials, plan_rounds

ROOT = Path(__file__).parents[2]


def test_halving_keeps_a_third_and_stays_within_the_budget() -> None:
    rounds = plan_rounds(56, 20_000, 100_000)
    assert [current.size for current in rounds] == [56, 18, 6, 2]
    assert [current.steps for current in rounds] == [446, 1388, 4166, 12_500]
    for trials in (2, 3, 7, 9, 56):
        for budget in (4 * trials, 333, 5_000, 40_000):
            rounds = plan_rounds(trials, 500, budget)
            assert sum(current.size * current.steps for current in rounds) <= budget
            assert all(1 <= current.steps <= 500 for current in rounds) and rounds[-1].size <= max(trials, 5)
            assert all(later.steps >= earlier.steps for earlier, later in pairwise(rounds))


def test_a_budget_for_everything_is_the_full_grid() -> None:
    assert plan_rounds(4, 100, 400) == plan_rounds(4, 100, None) == (Round(4, 100),)
    assert plan_rounds(1, 100, None) == plan_rounds(1, 100, 3) == ()


def test_too_small_a_budget_says_what_is_enough() -> None:
    with pytest.raises(UserError, match=r"allowed: at least 224; 1120000 is the full grid"):
        plan_rounds(56, 20_000, 223)
    assert plan_rounds(56, 20_000, 224)[0] == Round(56, 1)


def test_the_best_are_chosen_without_those_that_diverged() -> None:
    assert best([0.1, math.nan, 0.3, 0.3, 0.2], 5) == [2, 3, 4, 0, 1]
    assert best([math.nan, math.nan], 1) == [0]


def test_a_reduced_grid_replaces_a_grid_but_makes_none() -> None:
    own = get_protocol("kornblith").grid
    assert len(own) == 56 and list_trials(own, {}) == own
    assert list_trials(own, {"a": [1, 2], "b": [3]}) == ({"a": 1, "b": 3}, {"a": 2, "b": 3})
    assert list_trials(({},), {"a": [1, 2]}) == ({},)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, 100, {}, None), "none"),
        ((56, 100, {}, None), "full grid"),
        ((56, 100, {}, 5600), "full grid"),
        ((2, 100, {"optim.lr": [0.1, 0.01]}, None), "reduced grid: optim.lr 0.1, 0.01"),
        ((56, 100, {}, 700), "successive halving, 700 steps"),
        ((2, 100, {"optim.lr": [0.1, 0.01]}, 50), "reduced grid: optim.lr 0.1, 0.01; successive halving, 50 steps"),
        ((1, 100, {"optim.lr": [0.1]}, 50), "reduced grid: optim.lr 0.1"),
    ],
)
def test_a_result_says_how_its_values_were_found(arguments: Any, text: str) -> None:
    assert describe_search(*arguments) == text
