"""The grid search of the compound rule's constants (Tan & Le 2019, section 3.3, step 1): which networks it compares."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product

from transfer.costs.network_costs import Costs
from transfer.errors import BadValue
from transfer.experiments.scaling.plan import Study, Trial
from transfer.experiments.scaling.rounds import search_rounds
from transfer.networks.scaling import ALPHA, BETA, GAMMA, PRODUCT_TOLERANCE, Scale, is_constrained, scale_phi

Constants = tuple[float, float, float]
PAPER: Constants = (ALPHA, BETA, GAMMA)
SMALLEST_SPACING = 0.01


def grid_points(spacing: Sequence[float]) -> list[Constants]:
    """Return every alpha, beta, gamma of the grid that `compound_scale` takes, in ascending order.

    Args:
        spacing: steps of alpha, beta and gamma, 0.01 to 1; all three start at 1.

    Raises:
        UserError: a step is out of range, or no point satisfies the constraint.
    """
    shown = " ".join(f"{step:g}" for step in spacing)
    if not all(SMALLEST_SPACING <= step <= 1 for step in spacing):
        raise BadValue(f"`spacing`={shown} (allowed: {SMALLEST_SPACING:g} to 1 each)")
    most = 2 + PRODUCT_TOLERANCE
    axes = [_axis(step, limit) for step, limit in zip(spacing, (most, math.sqrt(most), math.sqrt(most)), strict=True)]
    points = [(a, b, g) for a, b, g in product(*axes) if is_constrained(Scale(a, b, g).flops_factor)]
    if not points:
        raise BadValue(
            f"`spacing`={shown}: no point of the grid has alpha * beta^2 * gamma^2 within {PRODUCT_TOLERANCE:g} of 2"
            " (give smaller steps)"
        )
    return points


def _axis(step: float, limit: float) -> list[float]:
    return [float(f"{1 + index * step:.12g}") for index in range(int((limit - 1) / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Equal:
    """A point of the grid whose network and image size, rounded, are those of the trial `kept`."""

    alpha: float
    beta: float
    gamma: float
    kept: str


def plan_trials(costs: Costs, points: Sequence[Constants]) -> tuple[list[Trial], list[Equal]]:
    """Return the different networks at phi = 1, and the points that are left out because they equal one of them.

    Of equal points, the paper's constants are kept, or else the first.

    Args:
        costs: costs of the baseline.
        points: alpha, beta and gamma of each.

    Raises:
        UserError: see `Costs.counts`.
    """
    groups: dict[Hashable, list[Constants]] = {}
    trials: dict[Hashable, Trial] = {}
    for point in sorted(points, key=lambda point: point != PAPER):
        network = scale_phi(costs.baseline, 1, *point)
        size, counts, identity = costs.image_size(network), costs.counts(network), costs.identity(network)
        name = "a{:g}_b{:g}_g{:g}".format(*point)
        values = dict(zip(("alpha", "beta", "gamma"), point, strict=True))
        trials.setdefault(identity, Trial(name, network.name, values, size, counts.macs, counts.num_parameters))
        groups.setdefault(identity, []).append(point)
    kept = sorted(trials.items(), key=lambda item: tuple(item[1].values.values()))
    equal = [Equal(*point, kept=trial.name) for key, trial in kept for point in groups[key][1:]]
    return [trial for _, trial in kept], equal


def plan_candidates(study: Study) -> tuple[Study, list[str]]:
    """Return a search with its candidates, and lines that say how many they are and how long they will be trained.

    Raises:
        UserError: no candidate, or too small a budget.
    """
    options = study.options
    costs = Costs(options["baseline"], num_classes=study.facts["num_classes"], image_size=options["image_size"])
    points = grid_points(options["spacing"])
    trials, equal = plan_trials(costs, points)
    rounds = search_rounds(len(trials), options["steps"], options["budget_steps"])
    lines = [f"{len(points)} points of the grid satisfy the constraint: {len(trials)} different networks"]
    lines += [
        f"  {point.alpha:g}, {point.beta:g}, {point.gamma:g} rounds to the same as {point.kept}: left out"
        for point in equal
    ]
    seeds = len(options["seeds"])
    lengths = ", then ".join(f"{current.size} networks for {current.steps} steps" for current in rounds)
    total = seeds * sum(current.size * current.steps for current in rounds)
    lines.append(f"{lengths}, with {seeds} seed{'s' if seeds > 1 else ''}: {total:,} steps in all")
    facts = {"baseline_macs": costs.counts(costs.baseline).macs, "equal": [asdict(point) for point in equal]}
    return replace(study, facts={**study.facts, **facts}, trials=tuple(trials)), lines
