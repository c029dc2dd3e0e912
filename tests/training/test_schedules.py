"""Learning-rate schedules against formulas written here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from transfer.errors import UserError
from transfer.training.schedules import SCHEDULES, build_schedule, schedule_factor


@pytest.mark.parametrize("name", SCHEDULES)
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


@pytest.mark.parametrize(("name", "milestones"), [("step-30-60-90", (30, 60, 90)), ("step-40-60-80", (40, 60, 80))])
def test_steps_divide_by_ten_after_their_percentages(name: str, milestones: tuple[int, ...]) -> None:
    factors = [schedule_factor(name, step, 100, warmup_steps=0) for step in range(100)]
    assert factors == pytest.approx([0.1 ** sum(step > m for m in milestones) for step in range(100)])
    assert factors[-1] == pytest.approx(1e-3)


def test_constant_stays() -> None:
    assert {schedule_factor("constant", step, 10, warmup_steps=0) for step in range(12)} == {1.0}


def test_an_unknown_schedule_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown schedule 'cosin'; did you mean 'cosine'"):
        schedule_factor("cosin", 5, 10, 0)


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
