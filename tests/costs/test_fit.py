"""The largest network within limits: what is limited, and the search, on made-up costs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer.costs.limits import Axis, Excess, Fit, format_cost, largest_fit, list_axes, parse_limits
from transfer.errors import UserError
from transfer.networks.registry import get_backbone

ROOT = Path(__file__).parents[2]
NOTHING = dict.fromkeys(("num_parameters", "macs", "memory", "latency_ms"))


def compound() -> Axis:
    return list_axes(224)[0]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_parameters", "20e6", 20e6),
        ("macs", " 1.8e9 ", 1.8e9),
        ("memory", "16GiB", 16 * 2**30),
        ("memory", "1.5 gb", 1.5e9),
        ("memory", "500MiB", 500 * 2**20),
        ("memory", "1e3kB", 1e6),
        ("memory", "12345 B", 12345),
        ("latency_ms", "0.5", 0.5),
        ("num_parameters", "20M", 20e6),
        ("macs", " 1.8 G ", 1.8e9),
    ],
)
def test_a_limit_is_read_as_it_is_written(name: str, text: str, value: float) -> None:
    assert parse_limits({**NOTHING, name: text}) == {name: value}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("num_parameters", "0", r"`max_params`=\'0' \(allowed: a number above 0, as 20e6\)"),
        ("num_parameters", "20 MB", r"`max_params`=\'20 MB' \(allowed: a number above 0, as 20e6\)"),
        ("macs", "-1", r"`max_macs`=\'-1' \(allowed"),
        ("macs", "nan", r"`max_macs`=\'nan' \(allowed"),
        ("macs", "inf", r"`max_macs`=\'inf' \(allowed"),
        ("macs", "", r"`max_macs`=\'' \(allowed"),
        ("memory", "16", r"`max_memory`=\'16': give a number and a unit \(allowed: B, kB, .*TiB\), as 16GiB"),
        ("memory", "16 Gb/s", r"`max_memory`=\'16 Gb/s': give a number and a unit"),
        ("memory", "16XB", r"`max_memory`=\'16XB': give a number and a unit"),
        ("memory", "GiB", r"`max_memory`=\'GiB': give a number and a unit"),
        ("memory", "-2GiB", r"`max_memory`=\'-2GiB': give a number and a unit"),
        ("memory", "nanGiB", r"`max_memory`=\'nanGiB'"),
        ("latency_ms", "30ms", r"`max_latency_ms`=\'30ms' \(allowed: a number above 0, as 30\)"),
    ],
)
def test_what_is_no_limit_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_limits({**NOTHING, name: text})


def test_without_a_limit_there_is_nothing_to_fit() -> None:
    with pytest.raises(
        UserError, match=r"nothing is limited: give at least one of `max_params`=20e6, `max_macs`=1\.8e9"
    ):
        parse_limits(NOTHING)


def test_a_cost_has_a_unit() -> None:
    shown = [
        format_cost("macs", 1_827_141_392),
        format_cost("num_parameters", 5_288_548),
        format_cost("num_parameters", 12),
    ]
    assert shown == ["1.827 G", "5.289 M", "12"]
    assert [format_cost("memory", value) for value in (0, 1023, 2**20, 1.5 * 2**40)] == [
        *("0 B", "1023 B", "1 MiB", "1.5 TiB")
    ]
    assert format_cost("latency_ms", 0.12345) == "0.1235 ms" and format_cost("macs", 0) == "0"
    assert str(Excess("macs", 1_800_090_000, 1.8e9)) == (
        "multiply-adds: needs 1.80009 G, allowed 1.8 G (1.00005 times)"
    )


def test_an_axis_reaches_as_far_as_the_coefficients_may() -> None:
    axes = {axis.name: axis for axis in list_axes(224)}
    assert list(axes) == ["compound", "depth", "width", "resolution"]
    phi = axes["compound"]
    assert (phi.values[0], phi.origin, phi.values[-1]) == (-12.62, 0, 12.62) and len(phi.values) == 2525
    assert 9.98 < phi.factors(12.62).depth <= 10
    assert (axes["depth"].values[0], axes["depth"].values[-1]) == (0.1, 10.0)
    # 32 pixels are the least that finetune.py takes.
    assert axes["resolution"].values[0] == 0.15 and round(224 * 0.15) == 34
    assert axes["compound"].at(get_backbone("b0"), 1.88).name == "b0@phi=1.88"
    assert axes["width"].at(get_backbone("b0"), 1.0).name == "b0"
    other = list_axes(224, 1.0, 1.0, math.sqrt(2))[0]
    assert other.at(get_backbone("b0"), 1.0).name == "b0@phi=1,alpha=1,beta=1,gamma=1.41421356237"
    assert other.values[-1] == 6.64


def test_an_image_smaller_than_32_pixels_does_not_shrink() -> None:
    phi, *_, resolution = list_axes(28)
    assert resolution.values[0] == 0.99 and phi.values[0] == -0.12  # round(28 * 0.99) is 28


def test_no_axis_without_a_compound_rule() -> None:
    with pytest.raises(UserError, match=r"alpha=1\.5, beta=1\.1, gamma=1\.15: alpha \* beta\^2 \* gamma\^2 is 2\.4"):
        list_axes(224, alpha=1.5)


class Oracle:
    """Made-up costs on an axis, and how often each is asked for anew."""

    def __init__(self, **tables: dict[float, float]) -> None:
        self.tables = tables
        self.asked: dict[str, set[float]] = {name: set() for name in tables}

    def __call__(self, value: float, quantity: str) -> float:
        self.asked[quantity].add(value)
        return self.tables[quantity][value]

    def fits(self, value: float, limits: dict[str, float]) -> bool:
        return all(self.tables[name][value] <= most for name, most in limits.items())


def steps(axis: Axis, draw: random.Random, exponent: float, wobble: float = 0.0) -> dict[float, float]:
    """A cost that grows in steps, as rounding makes it, and with `wobble` not always."""
    width = draw.randint(1, 60)
    costs = {}
    for index, value in enumerate(axis.values):
        factor = axis.factors(axis.values[index - index % width]).flops_factor
        costs[value] = 1000 * factor**exponent * (1 + draw.uniform(-wobble, wobble))
    return costs


def growth(axis: Axis) -> Callable[[float], float]:
    return lambda value: axis.factors(value).flops_factor


@pytest.mark.parametrize("seed", range(12))
def test_counted_costs_give_the_largest_value_of_all_even_if_they_do_not_always_grow(seed: int) -> None:
    draw = random.Random(seed)
    for axis in list_axes(224):
        oracle = Oracle(num_parameters=steps(axis, draw, 0.6, 0.05), macs=steps(axis, draw, 1.0, 0.05))
        limits = {"num_parameters": draw.uniform(100, 20_000), "macs": draw.uniform(100, 20_000)}
        found = largest_fit(axis, oracle, growth(axis), limits, ("num_parameters", "macs"))
        expected = max((value for value in axis.values if oracle.fits(value, limits)), default=None)
        assert found.value == expected
        if expected is not None and expected != axis.values[-1]:
            assert found.too_large == axis.values[axis.values.index(expected) + 1]
            over = {name for name, most in limits.items() if oracle.tables[name][found.too_large] > most}
            assert {each.quantity for each in found.broken} == over != set()


@pytest.mark.parametrize("seed", range(12))
def test_costs_that_take_time_are_asked_for_a_few_times_only(seed: int) -> None:
    draw = random.Random(seed)
    for axis in list_axes(224):
        oracle = Oracle(macs=steps(axis, draw, 1.0), memory=steps(axis, draw, 0.8), latency_ms=steps(axis, draw, 0.9))
        limits = {name: draw.uniform(50, 50_000) for name in oracle.tables}
        if draw.random() < 0.5:
            del limits["macs"]
        found = largest_fit(axis, oracle, growth(axis), limits, ("macs",))
        assert found.value == max((value for value in axis.values if oracle.fits(value, limits)), default=None)
        assert len(oracle.asked["memory"] | oracle.asked["latency_ms"]) <= 30


@pytest.mark.parametrize("seed", range(12))
def test_where_memory_does_not_always_grow_the_answer_fits_and_the_next_value_does_not(seed: int) -> None:
    draw = random.Random(seed)
    for axis in list_axes(224):
        oracle = Oracle(macs=steps(axis, draw, 1.0, 0.02), memory=steps(axis, draw, 0.8, 0.1))
        limits = {"macs": draw.uniform(500, 50_000), "memory": draw.uniform(500, 50_000)}
        found = largest_fit(axis, oracle, growth(axis), limits, ("macs",))
        if found.value is None:
            assert found.too_large == axis.values[0] and not oracle.fits(axis.values[0], limits)
            continue
        assert oracle.fits(found.value, limits)
        if found.value != axis.values[-1]:
            assert found.too_large == axis.values[axis.values.index(found.value) + 1]
            assert not oracle.fits(found.too_large, limits) and found.broken
            for each in found.broken:
                assert each.needs == oracle.tables[each.quantity][found.too_large] > each.allowed


def test_where_nothing_fits_every_limit_that_the_smallest_breaks_is_named() -> None:
    axis = compound()
    tables = {name: dict.fromkeys(axis.values, 100.0) for name in ("num_parameters", "macs", "memory", "latency_ms")}
    limits = {"num_parameters": 50.0, "macs": 200.0, "memory": 10.0, "latency_ms": 80.0}
    for counted in ((), ("num_parameters", "macs")):
        found = largest_fit(axis, Oracle(**tables), growth(axis), limits, counted)
        assert found == Fit(
            None,
            -12.62,
            (Excess("num_parameters", 100, 50), Excess("memory", 100, 10), Excess("latency_ms", 100, 80)),
        )


@pytest.mark.parametrize("cost", [0.0, 100.0])
@pytest.mark.parametrize("quantity", ["macs", "memory"])
def test_where_everything_fits_the_axis_ends(quantity: str, cost: float) -> None:
    axis = compound()
    oracle = Oracle(**{quantity: dict.fromkeys(axis.values, cost)})
    assert largest_fit(axis, oracle, growth(axis), {quantity: 100.0}, ("macs",)) == Fit(12.62, None, ())
