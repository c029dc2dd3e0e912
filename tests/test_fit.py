"""The largest network within limits: the search by itself on made-up costs, then on networks, then as a command."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scripts import scale as script
from tests.test_finetune import call, environment
from transfer import costs as costs_module
from transfer import meta_calls, peak_memory
from transfer.backbones import get_backbone
from transfer.backbones.roundings import count
from transfer.classifier import build_classifier
from transfer.costs import Costs, Use
from transfer.errors import UserError
from transfer.fit import Axis, Excess, Fit, format_cost, largest_fit, list_axes, parse_limits
from transfer.latency import Latency
from transfer.memory_estimate import inference_memory, training_memory
from transfer.scaling import Scale

ROOT = Path(__file__).parents[1]
NOTHING = dict.fromkeys(("num_params", "macs", "memory", "latency_ms"))


def compound() -> Axis:
    return list_axes(224)[0]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_params", "20e6", 20e6),
        ("macs", " 1.8e9 ", 1.8e9),
        ("memory", "16GiB", 16 * 2**30),
        ("memory", "1.5 gb", 1.5e9),
        ("memory", "500MiB", 500 * 2**20),
        ("memory", "1e3kB", 1e6),
        ("memory", "12345 B", 12345),
        ("latency_ms", "0.5", 0.5),
    ],
)
def test_a_limit_is_read_as_it_is_written(name: str, text: str, value: float) -> None:
    assert parse_limits({**NOTHING, name: text}) == {name: value}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("num_params", "0", r"--max_params '0' \(allowed: a number above 0, as 20e6\)"),
        ("num_params", "20M", r"--max_params '20M' \(allowed: a number above 0, as 20e6\)"),
        ("macs", "-1", r"--max_macs '-1' \(allowed"),
        ("macs", "nan", r"--max_macs 'nan' \(allowed"),
        ("macs", "inf", r"--max_macs 'inf' \(allowed"),
        ("macs", "", r"--max_macs '' \(allowed"),
        ("memory", "16", r"--max_memory '16': give a number and a unit \(allowed: B, kB, .*TiB\), as 16GiB"),
        ("memory", "16 Gb/s", r"--max_memory '16 Gb/s': give a number and a unit"),
        ("memory", "16XB", r"--max_memory '16XB': give a number and a unit"),
        ("memory", "GiB", r"--max_memory 'GiB': give a number and a unit"),
        ("memory", "-2GiB", r"--max_memory '-2GiB': give a number and a unit"),
        ("memory", "nanGiB", r"--max_memory 'nanGiB'"),
        ("latency_ms", "30ms", r"--max_latency_ms '30ms' \(allowed: a number above 0, as 30\)"),
    ],
)
def test_what_is_no_limit_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_limits({**NOTHING, name: text})


def test_without_a_limit_there_is_nothing_to_fit() -> None:
    with pytest.raises(
        UserError, match=r"nothing is limited: give at least one of --max_params 20e6, --max_macs 1\.8e9"
    ):
        parse_limits(NOTHING)


def test_a_cost_has_a_unit() -> None:
    shown = [format_cost("macs", 1_827_141_392), format_cost("num_params", 5_288_548), format_cost("num_params", 12)]
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
        oracle = Oracle(num_params=steps(axis, draw, 0.6, 0.05), macs=steps(axis, draw, 1.0, 0.05))
        limits = {"num_params": draw.uniform(100, 20_000), "macs": draw.uniform(100, 20_000)}
        found = largest_fit(axis, oracle, growth(axis), limits, ("num_params", "macs"))
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
    tables = {name: dict.fromkeys(axis.values, 100.0) for name in ("num_params", "macs", "memory", "latency_ms")}
    limits = {"num_params": 50.0, "macs": 200.0, "memory": 10.0, "latency_ms": 80.0}
    for counted in ((), ("num_params", "macs")):
        found = largest_fit(axis, Oracle(**tables), growth(axis), limits, counted)
        assert found == Fit(
            None,
            -12.62,
            (Excess("num_params", 100, 50), Excess("memory", 100, 10), Excess("latency_ms", 100, 80)),
        )


@pytest.mark.parametrize("cost", [0.0, 100.0])
@pytest.mark.parametrize("quantity", ["macs", "memory"])
def test_where_everything_fits_the_axis_ends(quantity: str, cost: float) -> None:
    axis = compound()
    oracle = Oracle(**{quantity: dict.fromkeys(axis.values, cost)})
    assert largest_fit(axis, oracle, growth(axis), {quantity: 100.0}, ("macs",)) == Fit(12.62, None, ())


# One for each kind of block.
NAMES = ("b0@phi=1.37", "lite0@d=1.9,w=0.45", "v2-b0@phi=-1.2", "resnet50@d=0.3,w=1.3", "mobilenet-v1@phi=0.6")


@pytest.mark.parametrize("name", NAMES)
def test_counts_by_formula_are_those_of_the_network(name: str) -> None:
    variant = get_backbone(name)
    outputs: list[int] = []
    with torch.device("meta"):
        network = build_classifier(name, 7).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.numel()))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, 83, 83))
    counts = count(variant, 83, 7)
    assert counts.num_params == sum(parameter.numel() for parameter in network.parameters())
    assert 2 * counts.macs == counter.get_total_flops()
    assert counts.activations == sum(outputs)


def test_counts_are_exact_where_floating_point_is_not() -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        build_classifier("b0", 10).eval()(torch.empty(1, 3, 2_000_001, 2_000_001))
    macs = count(get_backbone("b0"), 2_000_001, 10).macs
    assert macs > 2**53 and 2 * macs == counter.get_total_flops()


def find(axis: Axis, costs: Costs, limits: dict[str, float]) -> Fit:
    return largest_fit(
        axis,
        lambda value, quantity: costs.of(axis.at(costs.baseline, value), quantity),
        lambda value: costs.growth(axis.at(costs.baseline, value)),
        limits,
        costs.counted,
    )


@pytest.mark.parametrize(("baseline", "seed"), [("b0", 0), ("mobilenet-v1", 1)])
def test_every_answer_to_random_limits_keeps_them_counted_on_networks_of_its_name(baseline: str, seed: int) -> None:
    draw = random.Random(seed)
    use = Use(draw.randint(1, 64), draw.random() < 0.5, draw.choice(["32-true", "bf16-mixed"]))
    size = draw.choice([None, 65])
    costs = Costs(baseline, use, 10, size)
    factors = {name: draw.uniform(0.6, 1.6) for name in ("num_params", "macs", "memory")}
    del factors[draw.choice(list(factors))]
    limits = {name: factor * costs.of(costs.baseline, name) for name, factor in factors.items()}
    for axis in list_axes(costs.baseline_size):
        found = find(axis, costs, limits)
        if found.value is not None:
            assert kept(axis.at(costs.baseline, found.value).name, axis.factors(found.value), costs, limits)
        if found.too_large is not None:
            assert {each.quantity for each in found.broken} <= set(limits) and found.broken


def kept(name: str, factors: Scale, costs: Costs, limits: dict[str, float]) -> bool:
    """Whether the network that a name builds keeps the limits, counted in other ways than by formula."""
    side, use = factors.pixels(costs.baseline_size), costs.use
    with torch.device("meta"):
        network = build_classifier(name, costs.num_classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, side, side))
    if use.inference:
        memory = inference_memory(network, side, use.batch_size, use.precision)
    else:
        memory = training_memory(network, side, precision=use.precision).total(use.batch_size)
    found = {
        "num_params": sum(parameter.numel() for parameter in network.parameters()),
        "macs": counter.get_total_flops() // 2,
        "memory": memory,
    }
    return all(found[name] <= most for name, most in limits.items())


@pytest.mark.parametrize(
    ("baseline", "limits"),
    [
        ("b0", {"macs": 1.8e9, "num_params": 20e6}),
        ("lite0", {"macs": 0.3e9}),
        ("resnet50", {"num_params": 9e6}),
    ],
)
def test_no_larger_value_of_the_grid_keeps_limits_on_counts(baseline: str, limits: dict[str, float]) -> None:
    costs = Costs(baseline, Use())
    for axis in list_axes(costs.baseline_size):
        counts = {value: count(axis.at(costs.baseline, value)) for value in axis.values}
        fitting = [v for v, c in counts.items() if all(getattr(c, name) <= most for name, most in limits.items())]
        assert find(axis, costs, limits).value == max(fitting, default=None)


def test_scales_that_make_the_same_network_cost_one_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    costs, depth = Costs("b0", Use(4), 10, 64), list_axes(64)[1]
    built: list[str] = []
    build = costs.build
    monkeypatch.setattr(costs, "build", lambda network: built.append(network.name) or build(network))
    a, b, c = (costs.memory(depth.at(costs.baseline, value)) for value in (1.21, 1.24, 1.26))
    assert a == b < c and built == ["b0@d=1.21", "b0@d=1.26"]


@pytest.mark.parametrize("name", ["b0", "mobilenet-v1@w=0.5"])
def test_memory_is_the_same_with_every_operation_worked_out_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_classifier(name, 5)
    quick = [training_memory(network, 64, precision=precision) for precision in ("32-true", "bf16-mixed")]
    quick.append(inference_memory(network, 64, 3))
    monkeypatch.setattr(meta_calls, "call", lambda function, args, kwargs: function(*args, **kwargs))
    slow = [training_memory(network, 64, precision=precision) for precision in ("32-true", "bf16-mixed")]
    assert quick == [*slow, inference_memory(network, 64, 3)]


def test_an_operation_is_not_taken_for_another() -> None:
    number, whole = torch.empty(3, device="meta"), torch.empty(3, dtype=torch.long, device="meta")
    add = torch.ops.aten.add.Tensor
    results = [meta_calls.call(add, (whole, 1), {}), meta_calls.call(add, (number, whole), {"alpha": 2})]
    assert [result.dtype for result in results] == [torch.long, torch.float32]
    assert meta_calls.call(torch.ops.aten.add.Scalar, (whole, 1), {}).dtype == torch.long
    assert meta_calls.call(torch.ops.aten.add.Scalar, (whole, 1.0), {}).dtype == torch.float32
    view = meta_calls.call(torch.ops.aten.view.default, (number, [3, 1]), {})
    assert view.untyped_storage()._cdata == number.untyped_storage()._cdata
    assert meta_calls.call(torch.ops.aten.add_.Tensor, (number, number), {}) is number
    first, second = (meta_calls.call(torch.ops.aten.clone.default, (number,), {}) for _ in range(2))
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata
    assert meta_calls.call(torch.ops.aten.cat.default, ([number, number],), {}).shape == (6,)


FUNCTIONS = """
from torch import nn


class Net(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        self.num_features = round(16 * width)
        convs = [nn.Conv2d(self.num_features, self.num_features, 3, padding=1) for _ in range(round(2 * depth))]
        self.layers = nn.Sequential(nn.Conv2d(3, self.num_features, 3, padding=1), *convs)

    def forward(self, x):
        return self.layers(x)


def net(depth, width, resolution):
    return Net(depth, width)


def stubborn(depth, width, resolution):
    return Net(depth, 1.0)


def careless(depth, width, resolution):
    return [Net(1, 1)][round(depth) - 1]


class Wrong(Net):
    def forward(self, x):
        return self.layers(x[:, :2])


def wrong(depth, width, resolution):
    return Wrong(depth, width)


net.image_size = stubborn.image_size = careless.image_size = wrong.image_size = 40
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of functions, importable."""
    (tmp_path / "nets_to_fit.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "nets_to_fit"
    sys.modules.pop("nets_to_fit", None)


def test_a_function_of_the_users_own_is_scaled_as_far_as_it_fits(functions: str) -> None:
    costs = Costs(f"{functions}.net", Use(2), 10)
    limits = {"num_params": 20_000.0, "macs": 60e6}
    for axis in list_axes(costs.baseline_size)[1:]:
        fitting = []
        for value in axis.values:
            factors = axis.factors(value)
            width, depth, side = round(16 * factors.width), round(2 * factors.depth), factors.pixels(40)
            num_params = 28 * width + depth * (9 * width + 1) * width + 10 * (width + 1)
            macs = side**2 * (27 * width + depth * 9 * width**2) + 10 * width
            if num_params <= 20_000 and macs <= 60e6:
                fitting.append(value)
        assert find(axis, costs, limits).value == max(fitting)
    assert costs.counted == ()


def fitted(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    status = call(script.main, "fit", *argv)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def cells(printed: str) -> dict[str, list[str]]:
    """Rows of the printed table by their first cell; cells are two spaces or more apart."""
    rows = [re.split(r"  +", line.strip()) for line in printed.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 4}


def test_the_command_prints_the_answers_and_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--max_macs", "0.2e9", "--max_memory", "1.2GiB", "--max_params", "7.3e6")
    use = ("--batch_size", "16", "--num_classes", "10", "--image_size", "96")
    status, out, err = fitted(capsys, *limits, *use, "--json", tmp_path / "fit.json")
    assert (status, err) == (0, "")
    found = json.loads((tmp_path / "fit.json").read_text())
    assert found["limits"] == {"macs": 0.2e9, "memory": int(1.2 * 2**30), "num_params": 7.3e6}
    assert found["use"] == {"batch_size": 16, "inference": False, "precision": "32-true"}
    assert found["baseline"]["name"] == "b0" and found["hardware"]["cores"] >= 1
    answers = found["answers"]
    assert list(answers) == ["compound", "depth", "width", "resolution"]
    table = cells(out)
    assert table["backbone"] == [answer["name"] for answer in answers.values()]
    for answer in answers.values():
        variant = get_backbone(answer["name"])
        counts = count(variant, answer["image_size"], 10)
        assert (answer["costs"]["num_params"], answer["costs"]["macs"]) == (counts.num_params, counts.macs)
        assert answer["blocks"] == [row.repeats for row in variant.stages]
        assert all(answer["costs"][name] <= most for name, most in found["limits"].items())
        assert all(each["needs"] > each["allowed"] for each in answer["fit"]["broken"])
        for each in answer["fit"]["broken"]:
            assert f"{answer['too_large']}: {Excess(**each)}" in out
    assert table["memory"] == ["1.2 GiB", *(format_cost("memory", a["costs"]["memory"]) for a in answers.values())]
    first = answers["compound"]
    assert (
        table["blocks"][0] == f"16 → {sum(first['blocks'])}" and table["image size"][0] == f"{first['image_size']} px"
    )
    words = f"--image_size {first['image_size']} --data.batch_size 16 --trainer.precision 32-true"
    assert f"train it: python scripts/finetune.py --backbone {first['name']} --init_from b" in out and words in out


def test_limits_below_the_baseline_shrink_it(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = fitted(capsys, "--max_macs", "2e8", "--inference", "--batch_size", "1")
    assert status == 0
    name, *_ = cells(out)["backbone"]
    assert name.startswith("b0@phi=-") and count(get_backbone(name)).macs <= 2e8
    assert "b0 itself: multiply-adds: needs 385.815 M, allowed 200 M (1.92907 times)" in out
    assert cells(out)["blocks"][-2:] == ["16 → 16", "16 → 16"] and "--data.batch_size" not in out
    assert f"--backbone {name} --init_from b0 --image_size" in out


def test_another_rule_is_in_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    rule = ("--alpha", "1.3", "--beta", "1.1", "--gamma", "1.1")
    _, out, _ = fitted(capsys, "--baseline", "mobilenet-v2", "--max_macs", "5e8", *rule, "--inference")
    assert re.search(r"--backbone mobilenet-v2@phi=0\.\d+,alpha=1\.3,beta=1\.1,gamma=1\.1 --pretrained false", out)


def test_where_no_phi_fits_but_a_width_does_both_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = fitted(capsys, "--max_params", "120e3", "--num_classes", "10", "--inference")
    assert status == 1 and "train it" not in out
    assert cells(out)["backbone"][0::2] == ["none fits", "b0@w=0.13"]
    smallest = count(get_backbone("b0@phi=-12.57"), 32, 10).num_params
    needs = str(Excess("num_params", smallest, 120e3))
    assert f"b0@phi=-12.62, the smallest by compound: {needs}" in out
    assert "b0@r=0.15, the smallest by resolution: parameters: needs 4.02036 M, allowed 120 k" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "nothing is limited: give at least one of --max_params 20e6"),
        (("--max_params", "0"), "--max_params '0' (allowed: a number above 0, as 20e6)"),
        (("--max_memory", "16"), "--max_memory '16': give a number and a unit"),
        (("--max_macs", "1e9", "--baseline", "b9"), "unknown backbone 'b9'; did you mean 'b"),
        (("--max_macs", "1e9", "--baseline", "b0@phi=1"), "baseline b0@phi=1 is scaled already"),
        (("--max_macs", "1e9", "--baseline", "no.such"), "backbone 'no.such': No module named 'no'"),
        (("--max_macs", "1e9", "--batch_size", "0"), "--batch_size 0 (allowed: at least 1)"),
        (("--max_macs", "1e9", "--image_size", "-4"), "--image_size -4 (allowed: at least 1)"),
        (("--max_macs", "1e9", "--num_classes", "0"), "--num_classes 0 (allowed: at least 1)"),
        (("--max_macs", "1e9", "--alpha", "nan"), "depth coefficient nan (allowed: 0.1 to 10)"),
        (("--max_macs", "1e9", "--json", "no/such/folder/x.json"), "--json no/such/folder/x.json: no such folder"),
    ],
)
def test_a_mistake_is_told(argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = fitted(capsys, *argv)
    assert (status, out) == (2, "") and err.startswith("error: ") and message in err


def test_limits_that_nothing_keeps_are_named_with_what_they_would_have_to_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = fitted(capsys, "--max_params", "10", "--max_macs", "1e4", "--max_memory", "1TiB")
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == "error: no network that b0 scales to keeps the limits:" and len(lines) == 9
    assert re.fullmatch(
        r"b0@d=0\.1, the smallest by depth: parameters: needs [\d.]+ M, allowed 10 \([\d.e+]+ times\)", lines[3]
    )
    assert all("memory" not in line for line in lines)


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("net", 0, "--backbone nets_to_fit.net@phi=1.22 --pretrained false --image_size 47"),
        ("careless", 2, "raised IndexError: list index out of range (nets_to_fit.py, line 25)"),
        ("wrong", 2, "nets_to_fit.wrong on an image of 40 px raised RuntimeError: "),
    ],
)
def test_a_function_on_the_command_line(
    function: str, status: int, message: str, functions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, out, err = fitted(
        capsys, "--baseline", f"{functions}.{function}", "--max_macs", "17e6", "--batch_size", "2", "--num_classes", "3"
    )
    assert ended == status and message in (err if status else out)


def test_a_function_that_ignores_the_width_is_found_out(functions: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = fitted(capsys, "--baseline", f"{functions}.stubborn", "--max_macs", "17e6", "--batch_size", "2")
    assert status == 0
    assert re.search(r"stopped by +multiply-add +multiply-add +nothing: no +multiply-add", out)


def test_latency_and_memory_are_measured_where_latency_is_limited(
    functions: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure_latency(network: torch.nn.Module, image_size: int, **_: object) -> Latency:
        time = image_size / 10
        return Latency(1, time, time - 1, time + 1, 20, "2 threads of a slow one", {})

    peaks: list[tuple[object, ...]] = []

    def measure_peak(build: Callable[[], torch.nn.Module], *size: int, **options: object) -> int:
        peaks.append((build.args, *size, *options.values()))
        return 3 * 2**20

    monkeypatch.setattr(costs_module, "measure_latency", measure_latency)
    monkeypatch.setattr(peak_memory, "measure_peak", measure_peak)
    own = ("--baseline", f"{functions}.net", "--max_latency_ms", "4.5", "--batch_size", "4", "--json")
    status, out, err = fitted(capsys, *own, tmp_path / "fit.json")
    assert (status, err) == (0, "measuring takes minutes\n")
    found = json.loads((tmp_path / "fit.json").read_text())["answers"]
    resolution, depth = found["resolution"], found["depth"]
    assert (resolution["image_size"], resolution["too_large"]) == (45, f"{functions}.net@r=1.14")
    assert depth["name"] == f"{functions}.net@d=10" and depth["fit"]["broken"] == []
    assert resolution["latency"]["median_ms"] == 4.5 and resolution["peak"] == 3 * 2**20
    table = cells(out)
    assert table["latency"] == ["4.5 ms", "4.5 ms", "4 ms", "4 ms", "4.5 ms"]
    assert table["quartiles"] == ["3.5 to 5.5", "3 to 5", "3 to 5", "3.5 to 5.5"] and table["measured"] == ["3 MiB"] * 4
    assert "latency: of one image, median and quartiles of 20 runs, 2 threads of a slow one" in out
    assert peaks[-1] == ((f"{functions}.net@r=1.13", 1000), 45, 4, True, "32-true", torch.cuda.is_available())


@pytest.mark.slow
def test_the_command_as_a_user_calls_it(tmp_path: Path) -> None:
    def scale(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "scale.py"), *argv]
        return subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)

    (tmp_path / "nets_to_fit.py").write_text(FUNCTIONS)
    found = scale("fit", "--baseline", "nets_to_fit.net", "--max_macs", "17e6", "--batch_size", "2")
    assert (found.returncode, found.stderr) == (0, "")
    assert "train it: python scripts/finetune.py --backbone nets_to_fit.net@phi=" in found.stdout
    for argv, status, message in (
        (("fit",), 2, "error: nothing is limited"),
        (("fitt",), 2, "invalid choice: 'fitt'"),
        (("fit", "--help"), 0, ""),
    ):
        ended = scale(*argv)
        assert ended.returncode == status and message in ended.stderr and "Traceback" not in ended.stderr
