"""The released networks against the compound rule, and the paper's scaled networks counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from transfer.costs.counts import count_macs
from transfer.networks.registry import get_variant
from transfer.networks.rows import Variant
from transfer.networks.scaling import ALPHA, BETA, GAMMA, compound_scale
from transfer.paper import TABLE3, TABLE7
from transfer.weights.build import build_network

# No phi is printed; with b1 halfway, these come nearest to the released coefficients.
PHI = {"b1": 0.5, "b2": 1.0, "b3": 2.0, "b4": 3.0, "b5": 4.0, "b6": 5.0, "b7": 6.0}


@dataclass(frozen=True)
class Departure:
    """A released network and what the rule gives at its phi, from b0.

    Attributes:
        depth, width: released coefficients; `resolution` in pixels.
        rule_depth, rule_width, rule_resolution: alpha^phi, beta^phi, and 224 gamma^phi in pixels.
        depth_phi, width_phi, resolution_phi: the phi at which the rule alone gives the released coefficient.
        same_channels, same_repeats: whether rounding makes the same network of both.
        macs, rule_macs: multiply-adds of both.
    """

    backbone: str
    phi: float
    depth: float
    rule_depth: float
    depth_phi: float
    width: float
    rule_width: float
    width_phi: float
    resolution: int
    rule_resolution: int
    resolution_phi: float
    same_channels: bool
    same_repeats: bool
    macs: int
    rule_macs: int


def departures() -> list[Departure]:
    """Compare b1 to b7 with the rule of the paper's alpha, beta and gamma."""
    rows = []
    base = get_variant("b0").resolution
    for name, phi in PHI.items():
        released, ruled, rule = get_variant(name), get_variant(f"b0@phi={phi}"), compound_scale(phi)
        rows.append(
            Departure(
                backbone=name,
                phi=phi,
                depth=released.depth_coefficient,
                rule_depth=round(rule.depth, 4),
                depth_phi=_phi(released.depth_coefficient, ALPHA),
                width=released.width_coefficient,
                rule_width=round(rule.width, 4),
                width_phi=_phi(released.width_coefficient, BETA),
                resolution=released.resolution,
                rule_resolution=ruled.resolution,
                resolution_phi=_phi(released.resolution / base, GAMMA),
                same_channels=_channels(released) == _channels(ruled),
                same_repeats=_repeats(released) == _repeats(ruled),
                macs=released.num_macs,
                rule_macs=count_macs(ruled),
            )
        )
    return rows


def _phi(coefficient: float, base: float) -> float:
    return round(math.log(coefficient) / math.log(base), 2)


def _channels(variant: Variant) -> tuple[int, ...]:
    return variant.stem_channels, *(row.out_channels for row in variant.stages), variant.num_features


def _repeats(variant: Variant) -> tuple[int, ...]:
    return tuple(row.repeats for row in variant.stages)


@dataclass(frozen=True)
class TableCount:
    """A row of the paper's Table 3 or 7, counted.

    Attributes:
        image_size: side of the images, in pixels.
        printed_gmacs: multiply-adds that the paper prints, in billions.
        computed_gmacs: multiply-adds counted from the architecture outside this project; None where nobody did.
        gmacs: exact multiply-adds of the network that is built here, in billions.
        difference: relative difference of `gmacs` from what is printed.
        num_parameters: number of parameters with a classifier of 1000 classes.
    """

    backbone: str
    image_size: int
    printed_gmacs: float
    computed_gmacs: float | None
    gmacs: float
    difference: float
    num_parameters: int


def table_counts(table: Literal["table3", "table7"]) -> list[TableCount]:
    """Return the rows of a table in its order."""
    counts = []
    for row in {"table3": TABLE3, "table7": TABLE7}[table]:
        variant = get_variant(row.backbone)
        macs = count_macs(variant, row.image_size)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build_network(variant, variant.settings).parameters())
        counts.append(
            TableCount(
                backbone=variant.name,
                image_size=row.image_size or variant.resolution,
                printed_gmacs=row.gmacs,
                computed_gmacs=row.computed,
                gmacs=macs / 1e9,
                difference=round(macs / 1e9 / row.gmacs - 1, 4),
                num_parameters=parameters + 1000 * (variant.num_features + 1),
            )
        )
    return counts
