"""The grid of alpha, beta and gamma: its points, and the networks that they round to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import product

import pytest

from transfer.costs.counts import count_macs
from transfer.costs.network_costs import Costs
from transfer.errors import UserError
from transfer.experiments.scaling.grid import PAPER, grid_points, plan_trials
from transfer.networks.registry import get_backbone
from transfer.networks.scaling import compound_scale, scale_phi
from transfer.weights.build import build_classifier


@pytest.mark.parametrize("spacing", [(0.2, 0.1, 0.05), (0.05, 0.05, 0.05), (0.3, 0.07, 0.11), (1, 1, 1)])
def test_the_grid_is_what_brute_force_finds(spacing: tuple[float, float, float]) -> None:
    steps = [Fraction(str(step)) for step in spacing]
    found = set()
    for i, j, k in product(range(23), range(11), range(11)):
        a, b, c = (1 + index * step for index, step in zip((i, j, k), steps, strict=True))
        if abs(a * b**2 * c**2 - 2) <= Fraction(1, 10):
            found.add((float(a), float(b), float(c)))
    points = grid_points(spacing)
    assert points == sorted(found) and len(points) == len(found) >= 1
    assert (PAPER in points) == (spacing[1] in (0.1, 0.05))
    for point in points:
        assert compound_scale(1, *point).flops_factor == pytest.approx(2, abs=0.1 + 1e-9)


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        ((0.2, 0.1, 0.005), r"`spacing`=0.2 0.1 0.005 \(allowed: 0.01 to 1 each\)"),
        ((0.2, 1.1, 0.1), r"allowed: 0.01 to 1 each"),
        ((math.nan, 0.1, 0.1), r"allowed: 0.01 to 1 each"),
        ((0.6, 0.9, 0.9), r"no point of the grid has .* within 0.1 of 2 \(give smaller steps\)"),
    ],
)
def test_a_grid_without_points_is_refused(spacing: Sequence[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        grid_points(spacing)


def test_points_that_round_to_one_network_are_one_trial() -> None:
    points = [(1.25, 1.1, 1.15), PAPER, (1.2, 1.1, 1.2), (2.0, 1.0, 1.0)]
    trials, equal = plan_trials(Costs("b0", num_classes=10, image_size=44), points)
    assert [trial.name for trial in trials] == ["a1.2_b1.1_g1.15", "a1.2_b1.1_g1.2", "a2_b1_g1"]
    assert [(e.alpha, e.beta, e.gamma, e.kept) for e in equal] == [(1.25, 1.1, 1.15, "a1.2_b1.1_g1.15")]
    kept, left_out = (scale_phi(get_backbone("b0"), 1, *point) for point in (PAPER, points[0]))
    assert kept.stages == left_out.stages
    assert [trial.image_size for trial in trials] == [51, 53, 44]
    assert trials[0].backbone == "b0@phi=1" and trials[2].backbone == "b0@phi=1,alpha=2,beta=1,gamma=1"
    for trial in trials:
        assert trial.num_macs == count_macs(get_backbone(trial.backbone), trial.image_size, 10)
    network = build_classifier(trials[2].backbone, 10)
    assert trials[2].num_parameters == sum(parameter.numel() for parameter in network.parameters())
