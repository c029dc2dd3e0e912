"""What scaled networks cost, by formula and on the meta device, against networks that are built and run there."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from transfer.costs import meta_calls
from transfer.costs.counts import count
from transfer.costs.limits import Axis, Fit, largest_fit, list_axes
from transfer.costs.memory import inference_memory, training_memory
from transfer.costs.network_costs import Costs, Use
from transfer.networks.registry import get_backbone
from transfer.networks.scaling import Scale
from transfer.weights.build import build_classifier

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
    assert counts.num_parameters == sum(parameter.numel() for parameter in network.parameters())
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
    factors = {name: draw.uniform(0.6, 1.6) for name in ("num_parameters", "macs", "memory")}
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
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": counter.get_total_flops() // 2,
        "memory": memory,
    }
    return all(found[name] <= most for name, most in limits.items())


@pytest.mark.parametrize(
    ("baseline", "limits"),
    [
        ("b0", {"macs": 1.8e9, "num_parameters": 20e6}),
        ("lite0", {"macs": 0.3e9}),
        ("resnet50", {"num_parameters": 9e6}),
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
