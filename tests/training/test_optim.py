"""Parameter groups, and TensorFlow's RMSProp against its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.training.optim import (
    RMSpropTF,
    build_optimizer,
    parameter_groups,
)


def settings_by_name(classifier: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter."""
    names = {parameter: name for name, parameter in classifier.named_parameters()}
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
def test_every_parameter_is_in_one_group_even_if_frozen(tiny_classifier: Classifier, layer_decay: float) -> None:
    tiny_classifier.freeze()
    groups = parameter_groups(tiny_classifier, 0.1, 1e-4, layer_decay=layer_decay)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in tiny_classifier.parameters())


def test_norms_and_biases_do_not_decay(tiny_classifier: Classifier) -> None:
    settings = settings_by_name(tiny_classifier, parameter_groups(tiny_classifier, 0.1, 1e-4))
    decaying = {name for name, (_, decay) in settings.items() if decay == 1e-4}
    assert {decay for _, decay in settings.values()} == {0.0, 1e-4}
    expected = {
        n for n in settings
        if n.endswith((".conv.weight", ".reduce.weight", ".expand.weight", ".fc.weight"))
    }  # fmt: skip
    assert decaying == expected


def test_the_backbones_rate_is_a_share_of_the_heads(tiny_classifier: Classifier) -> None:
    settings = settings_by_name(tiny_classifier, parameter_groups(tiny_classifier, 0.1, 1e-4, backbone_lr_factor=0.2))
    rates = {(name.split(".")[0], round(rate, 12)) for name, (rate, _) in settings.items()}
    assert rates == {("head", 0.1), ("backbone", 0.02)}


def test_layer_decay_multiplies_stage_by_stage_from_the_top_down(tiny_classifier: Classifier) -> None:
    groups = parameter_groups(tiny_classifier, 0.1, 1e-4, backbone_lr_factor=0.5, layer_decay=0.8)
    rates = {name: rate for name, (rate, _) in settings_by_name(tiny_classifier, groups).items()}
    assert rates["head.fc.weight"] == rates["head.fc.bias"] == 0.1
    assert rates["backbone.top.conv.weight"] == pytest.approx(0.05)
    for stage in range(7):
        (own,) = {rate for name, rate in rates.items() if name.startswith(f"backbone.stages.{stage}.")}
        assert own == pytest.approx(0.05 * 0.8 ** (7 - stage))
    assert rates["backbone.stem.norm.bias"] == pytest.approx(0.05 * 0.8**8)


def test_groups_have_distinct_names(tiny_classifier: Classifier) -> None:
    names = [group["name"] for group in parameter_groups(tiny_classifier, 0.1, 1e-4)]
    assert sorted(names) == ["backbone", "backbone/no-decay", "head", "head/no-decay"]
    names = [group["name"] for group in parameter_groups(tiny_classifier, 0.1, 1e-4, layer_decay=0.5)]
    assert len(names) == len(set(names)) == 2 * (1 + 7 + 1 + 1)


def test_rmsprop_is_tensorflows() -> None:
    generator = np.random.default_rng(0)
    start, grads = generator.normal(size=(4, 3)), generator.normal(size=(6, 4, 3))
    rates = [0.1, 0.1, 0.1, 0.02, 0.02, 0.02]  # a change of rate tells where the rate enters
    decay, momentum, eps, weight_decay = 0.9, 0.8, 1e-3, 0.05

    parameter = nn.Parameter(torch.tensor(start))
    optimizer = RMSpropTF([parameter], 0.1, decay, momentum, eps, weight_decay)
    value, mean_square, buffer = start.copy(), np.ones_like(start), np.zeros_like(start)
    for rate, grad in zip(rates, grads, strict=True):
        g = grad + weight_decay * value
        mean_square = decay * mean_square + (1 - decay) * g**2
        buffer = momentum * buffer + rate * g / np.sqrt(mean_square + eps)
        value = value - buffer
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.tensor(grad)
        optimizer.step()
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-12)


def test_rmsprop_leaves_gradients_and_parameters_without_one_alone() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    used.grad = torch.full((2,), 3.0)
    optimizer = RMSpropTF([used, unused], lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert used.grad.tolist() == [3.0, 3.0]
    assert unused.tolist() == [1.0, 1.0] and used[0] < 1.0


def test_rmsprop_goes_on_from_its_state_dict() -> None:
    runs = []
    for restart in (False, True):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = RMSpropTF([parameter], lr=0.1)
        for step in range(4):
            if restart and step == 2:
                state = optimizer.state_dict()
                optimizer = RMSpropTF([parameter], lr=0.1)
                optimizer.load_state_dict(state)
            parameter.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
            optimizer.step()
        runs.append(parameter.detach().clone())
    assert torch.equal(*runs)


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.7, "nesterov": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999)}),
        ("rmsprop", RMSpropTF, {"momentum": 0.7, "decay": 0.9, "eps": 1e-3}),
    ],
)
def test_optimizers_keep_the_groups_own_rate_and_decay(name: str, kind: type, settings: dict[str, object]) -> None:
    group = {"params": [nn.Parameter(torch.ones(1))], "lr": 0.5, "weight_decay": 0.125}
    optimizer = build_optimizer(name, [group], lr=0.1, momentum=0.7)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0].items() >= {"lr": 0.5, "weight_decay": 0.125, **settings}.items()


def test_sgd_without_momentum_is_plain() -> None:
    optimizer = build_optimizer("sgd", [{"params": [nn.Parameter(torch.ones(1))]}], lr=0.1, momentum=0.0)
    assert optimizer.param_groups[0]["nesterov"] is False


def test_an_unknown_optimizer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown optimizer 'adam'; did you mean 'adamw'"):
        build_optimizer("adam", [], lr=0.1, momentum=0.9)


OTHERS = {"sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), "adamw": torch.optim.AdamW}


def step_three_times(optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_fused_kernels_follow_torchs_plain_loop(name: str) -> None:
    start = torch.randn(6, 5, 3, 3).to(memory_format=torch.channels_last)
    own, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = build_optimizer(name, [{"params": [own]}], lr=1e-3 if name == "adamw" else 0.1, momentum=0.9)
    assert optimizer.param_groups[0]["fused"] is True
    step_three_times(optimizer)
    step_three_times(OTHERS[name]([plain]))
    torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "dtype", "fused"),
    [("meta", torch.float32, True), ("cpu", torch.bfloat16, True), ("cpu", torch.float32, False)],
)
def test_fused_kernels_are_not_taken_where_they_do_not_fit(device: str, dtype: torch.dtype, fused: bool) -> None:
    group = {"params": [nn.Parameter(torch.ones(2, device=device, dtype=dtype))]}
    assert build_optimizer("sgd", [group], 0.1, 0.9, fused=fused).param_groups[0]["fused"] is None


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_in_bfloat16_a_step_is_right_to_its_rounding(name: str) -> None:
    start = torch.randn(100)
    low, exact = nn.Parameter(start.bfloat16()), nn.Parameter(start.bfloat16().float())
    for parameter in (low, exact):
        step_three_times(build_optimizer(name, [{"params": [parameter]}], lr=0.1, momentum=0.9))
    torch.testing.assert_close(low.float(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_state_of_another_memory_layout_goes_on_with_the_right_elements(name: str) -> None:
    start = torch.randn(6, 5, 3, 3)
    runs = []
    for layout in (torch.contiguous_format, torch.channels_last):
        first, second = (nn.Parameter(start.clone(memory_format=torch.contiguous_format)) for _ in range(2))
        optimizer = build_optimizer(name, [{"params": [first]}], lr=0.1, momentum=0.9)
        step_three_times(optimizer)
        second.data = first.data.clone(memory_format=layout)
        resumed = build_optimizer(name, [{"params": [second]}], lr=0.1, momentum=0.9)
        resumed.load_state_dict(optimizer.state_dict())
        step_three_times(resumed)
        runs.append(second.detach())
    torch.testing.assert_close(*runs, rtol=1e-6, atol=1e-7)
