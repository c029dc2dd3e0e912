"""Parameter groups, optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from transfer.errors import BadValue, unknown_name

ParameterGroup = dict[str, Any]


def parameter_groups(
    classifier: nn.Module,
    lr: float,
    weight_decay: float,
    backbone_lr_factor: float = 1.0,
    layer_decay: float = 1.0,
    *,
    only_trainable: bool = False,
) -> list[ParameterGroup]:
    """Return all parameters in groups of equal learning rate and weight decay, named for logs.

    Frozen parameters are in their group too: an optimizer skips parameters without a gradient, and unfreezing them
    later needs no new group.

    Args:
        classifier: has `backbone` (for a layer decay, one with `stem` and `stages`) and `head`.
        lr: learning rate of the head.
        weight_decay: weight decay of weights; norms and biases (tensors of at most one dimension) get none.
        backbone_lr_factor: learning rate of the backbone's last layer, relative to the head's.
        layer_decay: learning rate of each stage relative to the stage after it, in (0, 1].
        only_trainable: leave frozen parameters out, for a callback that adds them when it unfreezes them.

    Raises:
        UserError: `layer_decay` is not 1, and the backbone has no stages.
    """
    names = [name for name, _ in classifier.named_parameters()]
    stages = {int(name.split(".")[2]) for name in names if name.startswith("backbone.stages.")}
    if layer_decay != 1.0 and not stages:
        raise BadValue(f"`layer_decay`={layer_decay}: nothing is known of the backbone's stages (allowed: 1)")
    num_stages = len(stages)
    groups: dict[tuple[str, bool], ParameterGroup] = {}
    for name, parameter in classifier.named_parameters():
        if only_trainable and not parameter.requires_grad:
            continue
        part, scale = "head", 1.0
        if name.startswith("backbone."):
            depth_from_top = _depth_from_top(name.split("."), num_stages) if layer_decay != 1.0 else 0
            part = "backbone" if layer_decay == 1.0 else f"backbone-{depth_from_top}"
            scale = backbone_lr_factor * layer_decay**depth_from_top
        decays = parameter.ndim > 1
        group = groups.setdefault(
            (part, decays),
            {
                "name": part if decays else f"{part}/no-decay",
                "params": [],
                "lr": lr * scale,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _depth_from_top(path: list[str], num_stages: int) -> int:
    """Return 0 for what follows the last stage, 1 for the last stage, ..., num_stages + 1 for the stem."""
    if path[1] == "stages":
        return num_stages - int(path[2])
    return num_stages + 1 if path[1] == "stem" else 0


class RMSpropTF(Optimizer):
    """RMSProp as TensorFlow computes it, the optimizer of the paper.

    It differs from `torch.optim.RMSprop`: epsilon is inside the root, the mean square starts at one, and the learning
    rate is inside the momentum buffer. Source: tensorflow/python/training/rmsprop.py; the paper's settings: decay 0.9,
    momentum 0.9, epsilon 1e-3. Weight decay is added to the gradient (L2), as in the released code.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return the closure's result."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(group, params)
        return loss

    def _step_group(self, group: ParameterGroup, params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {"mean_square": torch.ones_like(p), "momentum": torch.zeros_like(p)}
        mean_squares = [self.state[p]["mean_square"] for p in params]
        buffers = [self.state[p]["momentum"] for p in params]
        grads = [p.grad for p in params if p.grad is not None]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        torch._foreach_mul_(mean_squares, group["decay"])
        torch._foreach_addcmul_(mean_squares, grads, grads, value=1.0 - group["decay"])
        roots = torch._foreach_add(mean_squares, group["eps"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_addcdiv_(buffers, grads, roots, value=group["lr"])
        torch._foreach_sub_(params, buffers)


def _sgd(groups: list[ParameterGroup], lr: float, momentum: float) -> Optimizer:
    return SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def _adamw(groups: list[ParameterGroup], lr: float, momentum: float) -> Optimizer:
    return AdamW(groups, lr=lr)


def _rmsprop(groups: list[ParameterGroup], lr: float, momentum: float) -> Optimizer:
    return RMSpropTF(groups, lr=lr, momentum=momentum)


OPTIMIZERS: dict[str, Callable[[list[ParameterGroup], float, float], Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "rmsprop": _rmsprop,
}


def check_optimizer(name: str) -> None:
    """Check that an optimizer is in the table.

    Raises:
        UserError: it is not.
    """
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)


def build_optimizer(name: str, groups: list[ParameterGroup], lr: float, momentum: float) -> Optimizer:
    """Return an optimizer over parameter groups that carry their own `lr` and `weight_decay`.

    Args:
        name: `sgd` (Nesterov), `adamw` (betas 0.9 and 0.999; it ignores `momentum`) or `rmsprop` (TensorFlow's).
        groups: see `parameter_groups`.
        lr: learning rate of groups without one.
        momentum: momentum of sgd and rmsprop, in [0, 1).

    Raises:
        UserError: unknown optimizer.
    """
    check_optimizer(name)
    return OPTIMIZERS[name](groups, lr, momentum)


def _cosine(step: int, total_steps: float, warmup_steps: int) -> float:
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


# Tan & Le 2019, section 5.2: x0.97 every 2.4 epochs of ImageNet, of which the released code trains 350. Counted in
# epochs of a small dataset, a run would spend most of its steps at a rate of nothing.
EXPONENTIAL_DECAY, DECAYS_PER_RUN = 0.97, 350 / 2.4


def _exponential(step: int, total_steps: float, warmup_steps: int) -> float:
    return EXPONENTIAL_DECAY ** math.floor(DECAYS_PER_RUN * step / total_steps)


def _constant(step: int, total_steps: float, warmup_steps: int) -> float:
    return 1.0


# The factor after the warm-up, as a function of the step and the lengths of run and warm-up in steps.
SCHEDULES: dict[str, Callable[[int, float, int], float]] = {
    "cosine": _cosine,
    "exponential": _exponential,
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
            the run: times 0.97 every 2.4 / 350 of it, counted from step 0, to 0.012; or `constant`.
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


def batch_norm_momentum(steps_per_epoch: float, total_steps: float) -> float:
    """Return the weight of a new batch in BatchNorm's running statistics (torch convention) while fine-tuning.

    Kornblith, Shlens & Le 2019 adapt TensorFlow's momentum to the dataset: max(1 - 10 / s, 0.9) with s steps per epoch,
    which is min(10 / s, 0.1) here. In a run too short for that, the statistics are still half the checkpoint's when it
    ends, and evaluation fails while the training loss looks fine; so their memory, 1 / momentum steps, is kept to at
    most a fortieth of the run. More than 0.3 would leave the statistics of the last few batches only.

    Args:
        steps_per_epoch: batches of an epoch; infinite if unknown.
        total_steps: batches of the run; infinite if unknown.

    Raises:
        UserError: fewer than one step.
    """
    if steps_per_epoch < 1 or total_steps < 1:
        raise BadValue(f"a run needs at least one step (per epoch {steps_per_epoch}, in all {total_steps})")
    return max(min(10 / steps_per_epoch, 0.1), min(40 / total_steps, 0.3))
