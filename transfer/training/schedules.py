"""Learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from transfer.errors import BadValue, unknown_name


def _cosine(step: int, total_steps: float, warmup_steps: int) -> float:
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


# Tan & Le 2019, section 5.2: x0.97 every 2.4 epochs of ImageNet, of which the released code trains 350. Counted in
# epochs of a small dataset, a run would spend most of its steps at a rate of nothing.
EXPONENTIAL_DECAY, DECAYS_PER_RUN = 0.97, 350 / 2.4


def _exponential(step: int, total_steps: float, warmup_steps: int) -> float:
    return EXPONENTIAL_DECAY ** math.floor(DECAYS_PER_RUN * step / total_steps)


def _tenths(milestones: Sequence[float]) -> Callable[[int, float, int], float]:
    """Return a schedule that divides the rate by ten after each of these shares of the run, warm-up included."""

    def factor(step: int, total_steps: float, warmup_steps: int) -> float:
        return 0.1 ** sum(step > share * total_steps for share in milestones)

    return factor


def _constant(step: int, total_steps: float, warmup_steps: int) -> float:
    return 1.0


# The factor after the warm-up, as a function of the step and the lengths of run and warm-up in steps.
SCHEDULES: dict[str, Callable[[int, float, int], float]] = {
    "cosine": _cosine,
    "exponential": _exponential,
    "step-30-60-90": _tenths((0.3, 0.6, 0.9)),
    "step-40-60-80": _tenths((0.4, 0.6, 0.8)),
    "constant": _constant,
}


def check_schedule(name: str) -> None:
    """Check that a schedule is in the table.

    Raises:
        UserError: it is not.
    """
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)


def schedule_factor(name: str, step: int, total_steps: float, warmup_steps: int) -> float:
    """Return the learning rate at a step relative to the peak, in [0, 1].

    Args:
        name: `cosine`, to zero at `total_steps`; `exponential`, the paper's, as its 350 epochs on ImageNet spread over
            the run: times 0.97 every 2.4 / 350 of it, counted from step 0, to 0.012; `step-30-60-90` and
            `step-40-60-80`, times 0.1 after each of these percentages of the run; or `constant`.
        step: optimizer steps taken so far.
        total_steps: optimizer steps of the run.
        warmup_steps: steps of the linear rise from zero to the peak.

    Raises:
        UserError: unknown schedule.
    """
    check_schedule(name)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return SCHEDULES[name](step, total_steps, warmup_steps)


class FactorLR(LambdaLR):
    """Multiplies the learning rate of each group by a factor of the step.

    Groups that are added to the optimizer later keep the rate that they come with; `LambdaLR` fails on them.
    """

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group."""
        rates = super().get_lr()
        return [*rates, *(group["lr"] for group in self.optimizer.param_groups[len(rates) :])]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the step of a checkpoint; a run of another length follows its own schedule from there."""
        super().load_state_dict(state_dict)
        for group, peak, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=False):
            group["lr"] = peak * factor(self.last_epoch)


def build_schedule(
    optimizer: Optimizer, name: str, warmup_epochs: float, total_steps: float, steps_per_epoch: float
) -> FactorLR:
    """Return a schedule that is stepped after each optimizer step.

    Args:
        optimizer: whose groups hold the peak learning rates.
        name: see `schedule_factor`.
        warmup_epochs: length of the linear warm-up, in epochs.
        total_steps: optimizer steps of the run; infinite if unknown.
        steps_per_epoch: optimizer steps of an epoch; infinite if unknown.

    Raises:
        UserError: unknown schedule, or the schedule needs a length that is unknown.
    """
    check_schedule(name)
    if name != "constant" and math.isinf(total_steps):
        raise BadValue(
            f"`schedule`={name!r} spreads its fall over the run, but nobody knows how many steps the run has: give"
            " `max_steps` (or `max_epochs`, if the loader has a length), or `schedule`='constant'"
        )
    if math.isinf(steps_per_epoch) and warmup_epochs > 0:
        raise BadValue(
            f"`warmup_epochs`={warmup_epochs} counts epochs, but the loader has no length: give `limit_train_batches`,"
            " the batches of an epoch, or `warmup_epochs`=0"
        )
    warmup_steps = round(warmup_epochs * steps_per_epoch) if warmup_epochs > 0 else 0
    return FactorLR(optimizer, lambda step: schedule_factor(name, step, total_steps, warmup_steps))
