"""Compound scaling (Tan & Le 2019, section 3.3): the rule, its rounding, and the names of scaled networks.

Three coefficients scale a network: depth multiplies the blocks per stage, width the channels (torchvision's
`width_mult`, timm's `channel_multiplier`), resolution the side of the image. The compound rule derives all three from
one number phi: depth = alpha^phi, width = beta^phi, resolution = gamma^phi, where alpha * beta^2 * gamma^2 is about 2,
so that multiply-adds grow by about 2^phi. This file imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from transfer.errors import BadValue, UserError

# Section 3.3, step 1: the best values for b0 at phi = 1, under the constraint.
ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
# How far alpha * beta^2 * gamma^2 may be from 2; the paper's own product is 1.92.
PRODUCT_TOLERANCE = 0.1
SMALLEST, LARGEST = 0.1, 10.0

EXAMPLES = "BASELINE@phi=1.5 (with alpha=, beta=, gamma= if not the paper's), or BASELINE@d=1.2,w=1.1,r=1.15"


@dataclass(frozen=True)
class Scale:
    """Factors that multiply a baseline, each 0.1 to 10.

    Args:
        depth: factor of the blocks per stage.
        width: factor of the channels.
        resolution: factor of the side of the images.

    Raises:
        UserError: a factor out of range.
    """

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("depth", self.depth), ("width", self.width), ("resolution", self.resolution)):
            if not SMALLEST <= value <= LARGEST:
                raise BadValue(f"{name} coefficient {value:.6g} (allowed: {SMALLEST:g} to {LARGEST:g})")

    @property
    def flops_factor(self) -> float:
        """Growth of the multiply-adds before rounding: depth * width^2 * resolution^2 (section 3.3)."""
        return self.depth * self.width**2 * self.resolution**2

    def pixels(self, size: int) -> int:
        """Return the scaled side of an image, in pixels, rounded to the nearest integer."""
        return round(size * self.resolution)


def compound_scale(phi: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA) -> Scale:
    """Return the factors of the compound rule: alpha^phi, beta^phi and gamma^phi.

    Args:
        phi: compound coefficient; it may be fractional or negative.
        alpha: growth of the depth, at least 1.
        beta: growth of the width, at least 1.
        gamma: growth of the resolution, at least 1.

    Raises:
        UserError: alpha, beta or gamma is below 1, the product alpha * beta^2 * gamma^2 is not within 0.1 of 2, or
            phi leads to factors outside `Scale`'s range.
    """
    if min(alpha, beta, gamma) < 1:
        raise BadValue(f"alpha={alpha:g}, beta={beta:g}, gamma={gamma:g} (allowed: at least 1 each)")
    product = Scale(alpha, beta, gamma).flops_factor
    if not is_constrained(product):
        raise BadValue(
            f"alpha={alpha:g}, beta={beta:g}, gamma={gamma:g}: alpha * beta^2 * gamma^2 is {product:.4g}"
            f" (allowed: {2 - PRODUCT_TOLERANCE:g} to {2 + PRODUCT_TOLERANCE:g}; the paper's 1.2, 1.1, 1.15 give 1.92)"
        )
    if not math.isfinite(phi) or abs(phi) > 100:
        raise BadValue(
            f"phi={phi:g} (allowed: a number that keeps every coefficient within {SMALLEST:g} to {LARGEST:g})"
        )
    try:
        return Scale(alpha**phi, beta**phi, gamma**phi)
    except UserError as error:
        raise BadValue(f"phi={phi:g}: {error}") from None


def is_constrained(product: float) -> bool:
    """Return whether alpha * beta^2 * gamma^2 is within 0.1 of 2, to twelve digits, so that 1.9 is accepted."""
    return abs(product - 2) <= PRODUCT_TOLERANCE + 1e-12


class Scalable(Protocol):
    """Something that can be scaled: a variant of a table, or a function of the user's own."""

    @property
    def name(self) -> str:
        """Name of the network."""
        ...

    @property
    def scale(self) -> Scale | None:
        """Factors by which it was scaled; None for a baseline."""
        ...

    def scaled(self, name: str, scale: Scale) -> Self:
        """Return the network under another name, with its coefficients multiplied by those of `scale`."""
        ...


Network = TypeVar("Network", bound=Scalable)


def scale(baseline: Network, depth: float = 1.0, width: float = 1.0, resolution: float = 1.0) -> Network:
    """Return the baseline with its coefficients multiplied, or the baseline itself if all three factors are 1.

    `transfer.costs.counts` shows the effect of rounding.

    Args:
        baseline: the network to scale.
        depth: factor of the blocks per stage, 0.1 to 10.
        width: factor of the channels, 0.1 to 10.
        resolution: factor of the side of the images, 0.1 to 10.

    Raises:
        UserError: a factor is out of range, or `baseline` is already scaled.
    """
    given = {"d": _shortest(depth), "w": _shortest(width), "r": _shortest(resolution)}
    return _scaled(baseline, Scale(*given.values()), {key: value for key, value in given.items() if value != 1})


def scale_phi(baseline: Network, phi: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA) -> Network:
    """Return the baseline scaled by the compound rule, or the baseline itself if phi is 0.

    Args:
        baseline: the network to scale.
        phi, alpha, beta, gamma: as in `compound_scale`.

    Raises:
        UserError: see `compound_scale`; or `baseline` is already scaled.
    """
    phi, alpha, beta, gamma = map(_shortest, (phi, alpha, beta, gamma))
    constants = {"alpha": alpha, "beta": beta, "gamma": gamma}
    named = {} if (alpha, beta, gamma) == (ALPHA, BETA, GAMMA) else constants
    return _scaled(baseline, compound_scale(phi, **constants), {"phi": phi, **named} if phi else {})


def scale_spec(baseline: Network, spec: str) -> Network:
    """Return the baseline scaled by a specification such as `phi=1.5` or `d=1.2,w=1.1,r=1.15`.

    Args:
        baseline: the network to scale.
        spec: the part of a network's name after the `@`.

    Raises:
        UserError: the text is not of this form, or a number is out of range.
    """
    given = f"backbone {_extended(baseline.name, spec)}"
    numbers: dict[str, float] = {}
    for part in spec.split(","):
        key, _, text = (piece.strip() for piece in part.partition("="))
        try:
            number = float(text)
        except ValueError:
            raise BadValue(f"{given}: {part.strip()!r} is not KEY=NUMBER (write {EXAMPLES})") from None
        if key in numbers:
            raise BadValue(f"{given}: {key} is given twice")
        numbers[key] = number
    try:
        if "phi" in numbers and numbers.keys() <= {"phi", "alpha", "beta", "gamma"}:
            return scale_phi(baseline, **numbers)
        if numbers.keys() <= {"d", "w", "r"}:
            return scale(baseline, *(numbers.get(key, 1.0) for key in "dwr"))
    except UserError as error:
        raise BadValue(f"{given}: {error}") from None
    raise BadValue(f"{given}: {' and '.join(numbers)} do not define a scale (write {EXAMPLES})")


def _scaled(baseline: Network, factors: Scale, named: Mapping[str, float]) -> Network:
    if baseline.scale is not None:
        raise BadValue(f"{baseline.name} is scaled already: multiply the coefficients and scale its baseline")
    if not named:
        return baseline
    return baseline.scaled(_extended(baseline.name, ",".join(f"{k}={v:.12g}" for k, v in named.items())), factors)


def _extended(name: str, spec: str) -> str:
    return f"{name}{',' if '@' in name else '@'}{spec}"


def _shortest(value: float) -> float:
    """Return the value rounded to twelve digits, so that a name fully describes the network."""
    return float(f"{value:.12g}")


# T and w of section 4 of the paper.
OBJECTIVE_TARGET, OBJECTIVE_EXPONENT = 400e6, -0.07


def search_objective(
    accuracy: float, macs: float, target: float = OBJECTIVE_TARGET, exponent: float = OBJECTIVE_EXPONENT
) -> float:
    """Return the objective that the search for b0 maximised: accuracy * (macs / target)^exponent.

    Source: section 4 of the paper, ACC(m) * [FLOPS(m) / T]^w with w = -0.07 and T = 400M, after Tan et al. 2019
    (arXiv 1807.11626), who used latency in place of FLOPS: 5% higher accuracy (relative) makes up for twice the cost.

    Args:
        accuracy: share of images classified correctly, 0 to 1.
        macs: multiply-adds per image, which the paper calls FLOPS; above 0.
        target: multiply-adds aimed at, above 0.
        exponent: weight of the multiply-adds, at most 0; 0 ignores them.

    Raises:
        UserError: an argument is out of range.
    """
    for name, value, allowed, ok in (
        ("accuracy", accuracy, "0 to 1", 0 <= accuracy <= 1),
        ("macs", macs, "above 0", 0 < macs < math.inf),
        ("target", target, "above 0", 0 < target < math.inf),
        ("exponent", exponent, "at most 0", -math.inf < exponent <= 0),
    ):
        if not ok:
            raise BadValue(f"search objective: {name} {value:g} (allowed: {allowed})")
    return accuracy * (macs / target) ** exponent


def round_filters(channels: int, width_coefficient: float, divisor: int = 8, keep: float = 0.9) -> int:
    """Return the scaled number of channels, rounded as in the released code.

    Source: tensorflow/tpu efficientnet_model.py `round_filters`: the nearest multiple of `divisor`, at least `divisor`,
    and the next one up if less than `keep` of the channels would remain; a coefficient of 1.0 leaves `channels`
    unchanged. EfficientNetV2 (google/automl effnetv2_model.py) never takes the next one up: its `keep` is 0.

    Args:
        channels: number of channels of the baseline.
        width_coefficient: factor of the channels.
        divisor: number that the result is a multiple of.
        keep: smallest share of the scaled channels that rounding may leave, in [0, 1].
    """
    if width_coefficient == 1.0:
        return channels
    scaled = channels * width_coefficient
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    if rounded < keep * scaled:
        rounded += divisor
    return rounded


def round_repeats(repeats: int, depth_coefficient: float) -> int:
    """Return the scaled number of blocks of a stage, rounded up (tensorflow/tpu efficientnet_model.py `round_repeats`).

    The product is rounded to twelve digits first: 1.1 * 10 is 11 blocks, though slightly more in floating point.
    """
    return math.ceil(_shortest(depth_coefficient * repeats))
