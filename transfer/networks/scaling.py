"""Compound scaling (Tan & Le 2019, section 3.3): the rule, its rounding, and how a scaled network is named.

A network is scaled by three coefficients: depth multiplies how often a block is repeated, width the channels
(torchvision `width_mult`, timm `channel_multiplier`), resolution the side of the image. The compound rule sets all
three from one number phi: depth = alpha^phi, width = beta^phi, resolution = gamma^phi, where alpha * beta^2 * gamma^2
is about 2, so that multiply-adds grow by about 2^phi. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from transfer.errors import UserError

# Section 3.3, step 1: the best values for b0 at phi = 1, under the constraint.
ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
# How far alpha * beta^2 * gamma^2 may be from 2; the paper's own product is 1.92.
PRODUCT_TOLERANCE = 0.1
SMALLEST, LARGEST = 0.1, 10.0

EXAMPLES = "BASELINE@phi=1.5 (with alpha=, beta=, gamma= if not the paper's), or BASELINE@d=1.2,w=1.1,r=1.15"


@dataclass(frozen=True)
class Scale:
    """Factors of a baseline, each 0.1 to 10: of its blocks per stage, its channels and the side of its images.

    Raises:
        UserError: one of them is out of range.
    """

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("depth", self.depth), ("width", self.width), ("resolution", self.resolution)):
            if not SMALLEST <= value <= LARGEST:
                raise UserError(f"{name} coefficient {value:.6g} (allowed: {SMALLEST:g} to {LARGEST:g})")

    @property
    def flops_factor(self) -> float:
        """By how much multiply-adds grow before rounding: depth * width^2 * resolution^2 (section 3.3)."""
        return self.depth * self.width**2 * self.resolution**2

    def pixels(self, size: int) -> int:
        """Side of the image, for the baseline's `size`: the nearest whole number."""
        return round(size * self.resolution)


def compound_scale(phi: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA) -> Scale:
    """The compound rule at any phi, fractional or negative too.

    Raises:
        UserError: alpha, beta or gamma is below 1, their product alpha * beta^2 * gamma^2 is not within 0.1 of 2, or
            phi leads out of `Scale`'s range.
    """
    if min(alpha, beta, gamma) < 1:
        raise UserError(f"alpha={alpha:g}, beta={beta:g}, gamma={gamma:g} (allowed: at least 1 each)")
    product = Scale(alpha, beta, gamma).flops_factor
    if not is_constrained(product):
        raise UserError(
            f"alpha={alpha:g}, beta={beta:g}, gamma={gamma:g}: alpha * beta^2 * gamma^2 is {product:.4g}"
            f" (allowed: {2 - PRODUCT_TOLERANCE:g} to {2 + PRODUCT_TOLERANCE:g}; the paper's 1.2, 1.1, 1.15 give 1.92)"
        )
    if not math.isfinite(phi) or abs(phi) > 100:
        raise UserError(
            f"phi={phi:g} (allowed: a number that keeps every coefficient within {SMALLEST:g} to {LARGEST:g})"
        )
    try:
        return Scale(alpha**phi, beta**phi, gamma**phi)
    except UserError as error:
        raise UserError(f"phi={phi:g}: {error}") from None


def is_constrained(product: float) -> bool:
    """Whether alpha * beta^2 * gamma^2 is near enough to 2; twelve digits count, so that 1.9 is."""
    return abs(product - 2) <= PRODUCT_TOLERANCE + 1e-12


class Scalable(Protocol):
    """What can be scaled: a variant of a table, or a function of the user's own."""

    @property
    def name(self) -> str:
        """Of the baseline."""
        ...

    @property
    def scale(self) -> Scale | None:
        """By which it was scaled; None of a baseline."""
        ...

    def scaled(self, name: str, scale: Scale) -> Self:
        """The network of that name with all its coefficients multiplied by those of `scale`."""
        ...


Network = TypeVar("Network", bound=Scalable)


def scale(baseline: Network, depth: float = 1.0, width: float = 1.0, resolution: float = 1.0) -> Network:
    """The baseline with its coefficients multiplied; the baseline itself where all three are 1.

    `transfer.costs.counts` shows what rounding made of it.

    Raises:
        UserError: a coefficient out of range, or `baseline` is a scaled network itself.
    """
    given = {"d": _shortest(depth), "w": _shortest(width), "r": _shortest(resolution)}
    return _scaled(baseline, Scale(*given.values()), {key: value for key, value in given.items() if value != 1})


def scale_phi(baseline: Network, phi: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA) -> Network:
    """The baseline scaled by the compound rule; the baseline itself where phi is 0.

    Raises:
        UserError: see `compound_scale`, or `baseline` is a scaled network itself.
    """
    phi, alpha, beta, gamma = map(_shortest, (phi, alpha, beta, gamma))
    constants = {"alpha": alpha, "beta": beta, "gamma": gamma}
    named = {} if (alpha, beta, gamma) == (ALPHA, BETA, GAMMA) else constants
    return _scaled(baseline, compound_scale(phi, **constants), {"phi": phi, **named} if phi else {})


def scale_spec(baseline: Network, spec: str) -> Network:
    """The baseline scaled as the part of a name after the `@` says: `phi=1.5` or `d=1.2,w=1.1,r=1.15`.

    Raises:
        UserError: the text is no such thing, or a number is out of range.
    """
    given = f"backbone {_extended(baseline.name, spec)}"
    numbers: dict[str, float] = {}
    for part in spec.split(","):
        key, _, text = (piece.strip() for piece in part.partition("="))
        try:
            number = float(text)
        except ValueError:
            raise UserError(f"{given}: {part.strip()!r} is not KEY=NUMBER (write {EXAMPLES})") from None
        if key in numbers:
            raise UserError(f"{given}: {key} is given twice")
        numbers[key] = number
    try:
        if "phi" in numbers and numbers.keys() <= {"phi", "alpha", "beta", "gamma"}:
            return scale_phi(baseline, **numbers)
        if numbers.keys() <= {"d", "w", "r"}:
            return scale(baseline, *(numbers.get(key, 1.0) for key in "dwr"))
    except UserError as error:
        raise UserError(f"{given}: {error}") from None
    raise UserError(f"{given}: {' and '.join(numbers)} say no scale (write {EXAMPLES})")


def _scaled(baseline: Network, factors: Scale, named: Mapping[str, float]) -> Network:
    if baseline.scale is not None:
        raise UserError(f"{baseline.name} is scaled already: multiply the coefficients and scale its baseline")
    if not named:
        return baseline
    return baseline.scaled(_extended(baseline.name, ",".join(f"{k}={v:.12g}" for k, v in named.items())), factors)


def _extended(name: str, spec: str) -> str:
    return f"{name}{',' if '@' in name else '@'}{spec}"


def _shortest(value: float) -> float:
    """The number that twelve digits of it stand for, so that a name tells the whole network."""
    return float(f"{value:.12g}")


# T and w of section 4 of the paper.
OBJECTIVE_TARGET, OBJECTIVE_EXPONENT = 400e6, -0.07


def search_objective(
    accuracy: float, macs: float, target: float = OBJECTIVE_TARGET, exponent: float = OBJECTIVE_EXPONENT
) -> float:
    """What the search for b0 maximised: accuracy * (macs / target)^exponent.

    Source: section 4 of the paper, ACC(m) * [FLOPS(m) / T]^w with w = -0.07 and T = 400M, after Tan et al. 2019
    (arXiv 1807.11626), where latency stands for FLOPS: twice the cost is worth 5% more accuracy, relatively.

    Args:
        accuracy: 0 to 1.
        macs: multiply-adds of one image, which the paper calls FLOPS; above 0.
        target: of the multiply-adds, above 0.
        exponent: at most 0; 0 looks at the accuracy alone.

    Raises:
        UserError: one of them is out of range.
    """
    for name, value, allowed, ok in (
        ("accuracy", accuracy, "0 to 1", 0 <= accuracy <= 1),
        ("macs", macs, "above 0", 0 < macs < math.inf),
        ("target", target, "above 0", 0 < target < math.inf),
        ("exponent", exponent, "at most 0", -math.inf < exponent <= 0),
    ):
        if not ok:
            raise UserError(f"search objective: {name} {value:g} (allowed: {allowed})")
    return accuracy * (macs / target) ** exponent


def round_filters(channels: int, width_coefficient: float, divisor: int = 8, keep: float = 0.9) -> int:
    """Scaled channels as the released code rounds them.

    Source: tensorflow/tpu efficientnet_model.py `round_filters`: nearest multiple of `divisor`, at least `divisor`,
    one step up where less than `keep` of the channels would be left; a coefficient of 1.0 leaves `channels` as it is.
    EfficientNetV2 (google/automl effnetv2_model.py) has no such step up: `keep` is 0.
    """
    if width_coefficient == 1.0:
        return channels
    scaled = channels * width_coefficient
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    if rounded < keep * scaled:
        rounded += divisor
    return rounded


def round_repeats(repeats: int, depth_coefficient: float) -> int:
    """Scaled number of blocks of a stage, rounded up (tensorflow/tpu efficientnet_model.py `round_repeats`).

    Twelve digits count: 1.1 * 10 are 11 blocks, though floating point makes it a little more.
    """
    return math.ceil(_shortest(depth_coefficient * repeats))
