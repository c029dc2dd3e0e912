"""The paper's ablations: the networks of Figures 3, 4 and 8, which show what each dimension gives."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from transfer.config.schema import SMALLEST_IMAGE
from transfer.costs.network_costs import Costs
from transfer.errors import UserError
from transfer.experiments.scaling.plan import Trial
from transfer.networks.scaling import Scale, compound_scale, scale

Figure = Literal[3, 4, 8]
# Printed along the curves of Figure 3.
WIDTHS = (1.0, 1.4, 1.8, 2.6, 3.8, 5.0)
DEPTHS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
RESOLUTIONS = (1.0, 1.3, 1.5, 1.7, 1.9, 2.2, 2.5)
# The four curves of Figure 4 by their legend; the widths along them are taken from Figure 3.
BASE_DEPTHS, BASE_RESOLUTIONS = (1.0, 2.0), (1.0, 1.3)
# Ours, within Figure 8's axis up to 5 billion multiply-adds.
PHIS = (0.0, 1.0, 2.0, 3.0)


def default_values(figure: Figure, phis: Sequence[float], constants: Sequence[float]) -> dict[str, list[float]]:
    """The widths, depths and resolutions of a figure. Those of Figure 8 cost what the compound rule does at each phi.

    Args:
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
        series: `width`, `depth`, `resolution`, `compound`, or Figure 4's `d=2, r=1.3`.
        value: the coefficient that varies along the curve, or phi.
        depth, width, resolution: coefficients asked for.
        trial: name of the network; points that round to one network have one.
    """

    series: str
    value: float
    depth: float
    width: float
    resolution: float
    trial: str = ""


def figure_points(figure: Figure, options: Mapping[str, Sequence[float]]) -> list[Point]:
    """The points of a figure, curve by curve in ascending order, without their networks.

    Args:
        options: `widths`, `depths`, `resolutions`; of Figure 8 `phis` and `constants` too.

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
    """The different networks among the points, from the cheapest up, and the points with the names of theirs.

    Args:
        costs: of the baseline.

    Raises:
        UserError: a coefficient is out of range, or images get too small; see also `Costs.counts`.
    """
    trials: dict[Hashable, Trial] = {}
    named = []
    for point in points:
        factors = Scale(point.depth, point.width, point.resolution)
        size = factors.pixels(costs.baseline_size)
        if size < SMALLEST_IMAGE:
            raise UserError(
                f"resolution {point.resolution:g} of {costs.baseline_size} px is {size}"
                f" (allowed: at least {SMALLEST_IMAGE})"
            )
        values = {"d": factors.depth, "w": factors.width, "r": factors.resolution}
        network = scale(costs.baseline, *values.values())
        counts = costs.counts(network)
        name = "_".join(f"{key}{value:g}" for key, value in values.items())
        trial = Trial(name, network.name, values, size, counts.macs, counts.num_params)
        trial = trials.setdefault(costs.identity(network), trial)
        named.append(replace(point, trial=trial.name))
    return sorted(trials.values(), key=lambda trial: trial.num_macs), named
