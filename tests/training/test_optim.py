"""Parameter groups, TensorFlow's RMSProp, schedules and the momentum rule, against formulas written here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.training.optim import (
    RMSpropTF,
    batch_norm_momentum,
    build_optimizer,
    build_schedule,
    parameter_groups,
    schedule_factor,
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


@pytest.mark.parametrize("name", ["cosine", "exponential", "constant"])
def test_warm_up_is_linear_and_reaches_the_peak_after_its_steps(name: str) -> None:
    factors = [schedule_factor(name, step, 1000, warmup_steps=4) for step in range(5)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_starts_at_the_peak_and_ends_at_zero() -> None:
    factors = [schedule_factor("cosine", step, 110, warmup_steps=10) for step in (10, 35, 60, 110, 120)]
    assert factors == pytest.approx([1.0, 0.5 * (1 + math.sqrt(0.5)), 0.5, 0.0, 0.0], abs=1e-12)


def test_exponential_falls_by_3_percent_every_2_4_of_350_epochs() -> None:
    steps = (0, 239, 240, 479, 480, 2400)  # 100 steps an epoch
    factors = [schedule_factor("exponential", step, 350 * 100, warmup_steps=0) for step in steps]
    assert factors == pytest.approx([1.0, 1.0, 0.97, 0.97, 0.97**2, 0.97**10])


@pytest.mark.parametrize("total_steps", [146, 20_000, 218_949])
def test_exponential_ends_where_the_papers_run_on_imagenet_ends(total_steps: int) -> None:
    factors = [schedule_factor("exponential", step, total_steps, warmup_steps=0) for step in range(total_steps)]
    assert factors[-1] == pytest.approx(1.2e-2, rel=0.05)  # 0.97 ** (350 / 2.4)
    # Counted in Flowers' epochs of 8 steps, 87% of 20,000 steps were below 1% of the peak.
    assert sum(factor < 0.01 for factor in factors) == 0


def test_constant_stays() -> None:
    assert {schedule_factor("constant", step, 10, warmup_steps=0) for step in range(12)} == {1.0}


def test_an_unknown_schedule_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown schedule 'cosin'; did you mean 'cosine'"):
        schedule_factor("cosin", 5, 10, 0)


@pytest.mark.parametrize(
    ("steps_per_epoch", "total_steps", "momentum"),
    [
        (1000, 20_000, 0.01),  # Kornblith's rule, TensorFlow momentum 1 - 10 / s
        (200, 20_000, 0.05),
        (50, 20_000, 0.1),  # his floor of 0.9
        (1000, 2000, 0.02),  # short runs: 40 over the run's steps
        (100, 250, 0.16),
        (20, 100, 0.3),  # and no more than 0.3
        (1, 1, 0.3),
    ],
)
def test_batch_norm_momentum_follows_the_length_of_the_run(
    steps_per_epoch: int, total_steps: int, momentum: float
) -> None:
    assert batch_norm_momentum(steps_per_epoch, total_steps) == pytest.approx(momentum)


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(UserError, match=r"at least one step \(per epoch 0, in all 0\)"):
        batch_norm_momentum(0, 0)


def test_a_schedule_that_was_saved_goes_on_at_the_rates_of_the_new_length() -> None:
    def stepped(total: int, steps: int, state: dict[str, Any] | None = None) -> tuple[list[float], dict[str, Any]]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = build_schedule(optimizer, "cosine", 0, total, 5)
        if state is not None:
            optimizer.param_groups[0]["lr"] = 0.0  # the end of the shorter run
            schedule.load_state_dict(state)
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return rates, schedule.state_dict()

    _, saved = stepped(10, 10)
    rates, _ = stepped(20, 10, saved)
    assert rates == stepped(20, 20)[0][10:] and rates[0] == pytest.approx(0.05)
