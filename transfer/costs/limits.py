"""The largest network within limits (Tan & Le 2019, section 3.1: maximise accuracy subject to memory and FLOPS).

What to limit, along which numbers to scale, and the search. What a network costs is a function that the caller passes.
Imports no torch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from transfer.costs.units import format_bytes, parse_bytes
from transfer.errors import BadValue
from transfer.networks.scaling import ALPHA, BETA, GAMMA, LARGEST, Network, Scale, compound_scale, scale, scale_phi
from transfer.preprocessing import SMALLEST_IMAGE

_THOUSANDS = {"G": 10**9, "M": 10**6, "k": 10**3}
STEP = 0.01  # of phi, and of each coefficient alone


@dataclass(frozen=True)
class Quantity:
    """What a network costs.

    Attributes:
        label: name in a table.
        argument: name of the argument that limits it.
        example: a limit as text.
    """

    label: str
    argument: str
    example: str


# In the order of what it takes to find them out.
QUANTITIES = {
    "num_parameters": Quantity("parameters", "max_params", "20e6"),
    "macs": Quantity("multiply-adds", "max_macs", "1.8e9"),
    "memory": Quantity("memory", "max_memory", "16GiB"),
    "latency_ms": Quantity("latency", "max_latency_ms", "30"),
}


def parse_limits(given: Mapping[str, str | None]) -> dict[str, float]:
    """Return limits by the names of `QUANTITIES`.

    Args:
        given: a text for each of `QUANTITIES`; None is no limit.

    Raises:
        UserError: a text is no number above 0, memory has no known unit, or nothing is limited.
    """
    limits = {name: _parse(name, text) for name in QUANTITIES if (text := given[name]) is not None}
    if not limits:
        examples = ", ".join(f"`{quantity.argument}`={quantity.example}" for quantity in QUANTITIES.values())
        raise BadValue(f"nothing is limited: give at least one of {examples}")
    return limits


def _parse(name: str, text: str) -> float:
    argument, example = QUANTITIES[name].argument, QUANTITIES[name].example
    if name == "memory":
        return parse_bytes(text, argument)
    unit = _THOUSANDS.get(text.strip()[-1:], 1)
    try:
        value = unit * float(text.strip()[:-1] if unit > 1 else text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise BadValue(f"`{argument}`={text!r} (allowed: a number above 0, as {example})")
    return value


def format_cost(name: str, value: float, digits: int = 4) -> str:
    """Return a cost with its unit; `name` is one of `QUANTITIES`."""
    if name == "memory":
        return format_bytes(value, digits)
    if name == "latency_ms":
        return f"{value:.{digits}g} ms"
    unit, size = next((step for step in _THOUSANDS.items() if value >= step[1]), ("", 1))
    return f"{value / size:.{digits}g} {unit}".rstrip()


@dataclass(frozen=True)
class Axis:
    """One number that scales a baseline.

    Attributes:
        name: `compound` (phi of the rule), or `depth`, `width`, `resolution` (that coefficient alone).
        origin: value of the baseline.
        values: values that are searched, ascending: multiples of 0.01 that keep the coefficients in `Scale`'s range and
            the image's side at 32 pixels or more (or at the baseline's own, where that is smaller).
        constants: alpha, beta and gamma of the compound rule.
    """

    name: str
    origin: float
    values: tuple[float, ...]
    constants: tuple[float, float, float] = (ALPHA, BETA, GAMMA)

    def at(self, baseline: Network, value: float) -> Network:
        """Return the baseline scaled to a value."""
        if self.name == "compound":
            return scale_phi(baseline, value, *self.constants)
        return scale(baseline, **{self.name: value})

    def factors(self, value: float) -> Scale:
        """Return the coefficients at a value."""
        return compound_scale(value, *self.constants) if self.name == "compound" else Scale(**{self.name: value})


def list_axes(image_size: int, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA) -> list[Axis]:
    """Return the axes of the compound rule and of each dimension alone.

    Args:
        image_size: side of the baseline's images in pixels.
        alpha, beta, gamma: constants of the compound rule.

    Raises:
        UserError: alpha, beta and gamma make no compound rule.
    """
    constants = (alpha, beta, gamma)
    compound_scale(1.0, *constants)
    furthest = math.floor(math.log(LARGEST) / math.log(max(constants)) / STEP)
    ends = {"compound": (-furthest, 0, furthest)}
    ends |= dict.fromkeys(("depth", "width", "resolution"), (round(1 / LARGEST / STEP), 1, round(LARGEST / STEP)))
    axes = []
    for name, (first, origin, last) in ends.items():
        axis = Axis(name, origin, tuple(round(STEP * i, 2) for i in range(first, last + 1)), constants)
        large = [v for v in axis.values if axis.factors(v).pixels(image_size) >= min(SMALLEST_IMAGE, image_size)]
        axes.append(Axis(name, origin, tuple(large), constants))
    return axes


@dataclass(frozen=True)
class Excess:
    """A limit that a network breaks: how much of a quantity it needs, and how much is allowed."""

    quantity: str
    needs: float
    allowed: float

    def __str__(self) -> str:
        needs, allowed = (format_cost(self.quantity, value, digits=6) for value in (self.needs, self.allowed))
        label, factor = QUANTITIES[self.quantity].label, self.needs / self.allowed
        return f"{label}: needs {needs}, allowed {allowed} ({factor:.6g} times)"


@dataclass(frozen=True)
class Fit:
    """How far a baseline can be scaled along an axis.

    Attributes:
        value: largest value that keeps all limits; None if none does.
        too_large: next value, or the smallest one where none fits; None where the axis ends.
        broken: limits that `too_large` breaks.
    """

    value: float | None
    too_large: float | None
    broken: tuple[Excess, ...]


def largest_fit(
    axis: Axis,
    cost: Callable[[float, str], float],
    growth: Callable[[float], float],
    limits: Mapping[str, float],
    counted: Collection[str],
) -> Fit:
    """Find the largest value of an axis that keeps all limits.

    The next value breaks the limits that are named. For counted quantities every larger value is looked at, and none
    keeps the limits on them. The other quantities take too long for that. They grow with the network but for exceptions
    of rounding, so it is only certain that the next value does not fit.

    Args:
        axis: the axis.
        cost: returns what the network at a value needs of a quantity, at least 0, and remembers it.
        growth: returns a number about proportional to the costs that are not counted; it only guides the search.
        limits: most that is allowed of each quantity.
        counted: quantities whose cost takes no time.
    """
    values = axis.values
    quick = [name for name in QUANTITIES if name in limits and name in counted]
    slow = [name for name in QUANTITIES if name in limits and name not in counted]

    def broken(index: int, names: Sequence[str]) -> list[Excess]:
        costs = [Excess(name, cost(values[index], name), limits[name]) for name in names]
        return [each for each in costs if each.needs > each.allowed]

    def first_broken(index: int) -> list[Excess]:
        groups = (quick, *([name] for name in slow))
        return next((found for names in groups if (found := broken(index, names))), [])

    def excess(index: int) -> float:
        names = [each.quantity for each in first_broken(index)] or [*quick, *slow]
        return max(_log(cost(values[index], name) / limits[name]) for name in names)

    top = len(values) - 1
    while top >= 0 and broken(top, quick):
        top -= 1
    best = top
    if slow and top >= 0:
        start = min(bisect_right(values, axis.origin) - 1, top)
        best = _last_that_fits(excess, lambda index: _log(growth(values[index])), top + 1, start)
    if best < 0:
        return Fit(None, values[0], tuple(broken(0, [*quick, *slow])))
    if best + 1 == len(values):
        return Fit(values[best], None, ())
    return Fit(values[best], values[best + 1], tuple(first_broken(best + 1)))


def _log(ratio: float) -> float:
    return math.log(max(ratio, 1e-9))


def _last_that_fits(excess: Callable[[int], float], growth: Callable[[int], float], size: int, start: int) -> int:
    """Find an index below `size` without excess, whose successor has excess or is `size`; -1 if index 0 has excess.

    Args:
        excess: returns a number above 0 where something does not fit.
        growth: returns a number in which excess is about linear, with a slope near 1.
        size: number of indices.
        start: index that is looked at first.
    """
    low, high, index = -1, size, start
    seen: dict[int, float] = {}
    fits, in_a_row = True, 0
    while True:
        seen[index] = excess(index)
        in_a_row = in_a_row + 1 if fits == (seen[index] <= 0) else 1
        fits = seen[index] <= 0
        low, high = (index, high) if fits else (low, index)
        if high - low <= 1:
            return low
        index = _guess(seen, growth, low, high)
        reach = 2 ** max(in_a_row - 3, 0)
        index = max(index, low + reach) if fits else min(index, high - reach)
        index = min(max(index, low + 1), high - 1)


def _guess(seen: Mapping[int, float], growth: Callable[[int], float], low: int, high: int) -> int:
    """Return the last index in [`low`, `high`) that fits by the line through the two known points nearest to them."""
    near = sorted(seen, key=lambda index: min(abs(index - low), abs(index - high)))[:2]
    slope = 1.0
    if len(near) == 2:
        run = growth(near[1]) - growth(near[0])
        slope = min(max((seen[near[1]] - seen[near[0]]) / run, 0.25), 4.0) if run else 1.0
    wanted = growth(near[0]) - seen[near[0]] / slope
    return low + bisect_right(range(low + 1, high), wanted, key=growth)
