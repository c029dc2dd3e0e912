"""The paper's ablations: the networks of Figures 3, 4 and 8, which show what each dimension contributes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from transfer.costs.network_costs import Costs
from transfer.errors import BadValue
from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study, Trial
from transfer.experiments.scaling.rounds import round_runs, search_rounds
from transfer.networks.scaling import ALPHA, BETA, GAMMA, Scale, compound_scale, scale
from transfer.preprocessing import SMALLEST_IMAGE

Figure = Literal[3, 4, 8]
# Printed along the curves of Figure 3.
WIDTHS = (1.0, 1.4, 1.8, 2.6, 3.8, 5.0)
DEPTHS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
RESOLUTIONS = (1.0, 1.3, 1.5, 1.7, 1.9, 2.2, 2.5)
# The four curves of Figure 4 by their legend; the widths along them are taken from Figure 3.
BASE_DEPTHS, BASE_RESOLUTIONS = (1.0, 2.0), (1.0, 1.3)
# Ours, within Figure 8's axis up to 5 billion multiply-adds.
PHIS = (0.0, 1.0, 2.0, 3.0)


def default_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the options that only an ablation has.

    Args:
        given: options that the user gave, on which the others depend.

    Raises:
        UserError: options that do not go together, or constants that make no compound rule.
    """
    figure = given.get("figure", 3)
    if figure != 8:
        for name in sorted({"phis", "constants"} & given.keys()):
            raise BadValue(f"`{name}` belongs to Figure 8 (given: `figure`={figure})")
        return {"figure": figure, **default_values(figure, (), ())}
    phis, constants = given.get("phis", [*PHIS]), given.get("constants", [ALPHA, BETA, GAMMA])
    if len(constants) != 3:
        raise BadValue(f"`constants` has {len(constants)} numbers (needed: alpha, beta, gamma)")
    return {"figure": 8, "phis": phis, "constants": constants, **default_values(8, phis, constants)}


def default_values(figure: Figure, phis: Sequence[float], constants: Sequence[float]) -> dict[str, list[float]]:
    """Return the widths, depths and resolutions of a figure.

    Those of Figure 8 cost as much as the compound rule's network at each phi.

    Args:
        figure: number of the paper's figure.
        phis: compound coefficients of Figure 8.
        constants: alpha, beta and gamma of the compound rule.

    Raises:
        UserError: see `compound_scale`.
    """
    if figure == 8:
        factors = [compound_scale(phi, *constants).flops_factor for phi in phis]
        depths = [round(factor, 2) for factor in factors]
        sides = [round(factor**0.5, 2) for factor in factors]
        return {"widths": sides, "depths": depths, "resolutions": sides}
    if figure == 4:
        return {"widths": [*WIDTHS], "depths": [*BASE_DEPTHS], "resolutions": [*BASE_RESOLUTIONS]}
    return {"widths": [*WIDTHS], "depths": [*DEPTHS], "resolutions": [*RESOLUTIONS]}


@dataclass(frozen=True)
class Point:
    """A point of a curve.

    Attributes:
        series: name of the curve: `width`, `depth`, `resolution`, `compound`, or Figure 4's `d=2, r=1.3`.
        value: the coefficient that varies along the curve, or phi.
        depth, width, resolution: coefficients asked for.
        trial: name of the network; points that round to one network share it.
    """

    series: str
    value: float
    depth: float
    width: float
    resolution: float
    trial: str = ""


def figure_points(figure: Figure, options: Mapping[str, Sequence[float]]) -> list[Point]:
    """Return the points of a figure, curve by curve in ascending order, without their networks.

    Args:
        figure: number of the paper's figure.
        options: `widths`, `depths`, `resolutions`; for Figure 8 `phis` and `constants`, too.

    Raises:
        UserError: see `compound_scale`.
    """
    widths, depths, resolutions = (sorted(set(options[name])) for name in ("widths", "depths", "resolutions"))
    if figure == 4:
        return [Point(f"d={d:g}, r={r:g}", w, d, w, r) for d in depths for r in resolutions for w in widths]
    points = [Point("width", w, 1.0, w, 1.0) for w in widths]
    points += [Point("depth", d, d, 1.0, 1.0) for d in depths]
    points += [Point("resolution", r, 1.0, 1.0, r) for r in resolutions]
    for phi in sorted(set(options["phis"])) if figure == 8 else ():
        factors = compound_scale(phi, *options["constants"])
        points.append(Point("compound", phi, factors.depth, factors.width, factors.resolution))
    return points


def plan_networks(costs: Costs, points: Sequence[Point]) -> tuple[list[Trial], list[Point]]:
    """Return the different networks among the points, cheapest first, and the points with the names of theirs.

    Args:
        costs: costs of the baseline.
        points: points without networks.

    Raises:
        UserError: a coefficient is out of range, or images get too small; see also `Costs.counts`.
    """
    trials: dict[Hashable, Trial] = {}
    named = []
    for point in points:
        factors = Scale(point.depth, point.width, point.resolution)
        size = factors.pixels(costs.baseline_size)
        if size < SMALLEST_IMAGE:
            raise BadValue(
                f"resolution {point.resolution:g} of {costs.baseline_size} px is {size}"
                f" (allowed: at least {SMALLEST_IMAGE})"
            )
        values = {"d": factors.depth, "w": factors.width, "r": factors.resolution}
        network = scale(costs.baseline, *values.values())
        counts = costs.counts(network)
        name = "_".join(f"{key}{value:g}" for key, value in values.items())
        trial = Trial(name, network.name, values, size, counts.macs, counts.num_parameters)
        trial = trials.setdefault(costs.identity(network), trial)
        named.append(replace(point, trial=trial.name))
    return sorted(trials.values(), key=lambda trial: trial.num_macs), named


def plan_points(study: Study) -> tuple[Study, list[str]]:
    """Return an ablation with its networks, and lines that say how many they are and how long they will be trained.

    Raises:
        UserError: see `plan_networks`.
    """
    options = study.options
    costs = Costs(options["baseline"], num_classes=study.facts["num_classes"], image_size=options["image_size"])
    trials, points = plan_networks(costs, figure_points(options["figure"], options))
    runs = len(trials) * len(options["seeds"])
    first, last = trials[0].num_macs / 1e6, trials[-1].num_macs / 1e6
    lines = [
        f"{len(points)} points, {len(trials)} different networks of {first:,.0f} to {last:,.0f} M multiply-adds",
        f"{runs} runs of {options['steps']} steps: {runs * options['steps']:,} steps in all",
    ]
    facts = {"baseline_macs": costs.counts(costs.baseline).macs, "points": [asdict(point) for point in points]}
    return replace(study, facts={**study.facts, **facts}, trials=tuple(trials)), lines


def plan_runs(study: Study, outcomes: Mapping[str, Outcome]) -> Study:
    """Return the study with a run of each network with each seed, all in one round, unless it has them."""
    if study.runs:
        return study
    rounds = search_rounds(len(study.trials), study.options["steps"], None)
    return study.extended(round_runs(rounds, 0, study.trials, study.options["seeds"]))
