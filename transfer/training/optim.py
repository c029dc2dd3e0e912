"""Parameter groups, optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from transfer.errors import BadValue, unknown_name


def parameter_groups(
    classifier: nn.Module,
    lr: float,
    weight_decay: float,
    backbone_lr_factor: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """All parameters, in groups of equal learning rate and weight decay, named for logs.

    Frozen parameters are in their group too: an optimizer leaves what has no gradient alone, and unfreezing later needs
    no new group, which a running schedule would not know.

    Args:
        classifier: has `backbone` (for a layer decay with `stem` and `stages`) and `head`.
        lr: of the head.
        weight_decay: of weights; norms and biases (tensors of at most one dimension) get none.
        backbone_lr_factor: learning rate of the backbone's last layer, relative to the head's.
        layer_decay: in (0, 1]; each stage's learning rate relative to the stage after it.

    Raises:
        UserError: a layer decay, and the backbone has no stages.
    """
    names = [name for name, _ in classifier.named_parameters()]
    stages = {int(name.split(".")[2]) for name in names if name.startswith("backbone.stages.")}
    if layer_decay != 1.0 and not stages:
        raise BadValue(f"`layer_decay`={layer_decay}: nothing is known of the backbone's stages (allowed: 1)")
    num_stages = len(stages)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in classifier.named_parameters():
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
    """0 for what follows the last stage, 1 for the last stage, ..., num_stages + 1 for the stem."""
    if path[1] == "stages":
        return num_stages - int(path[2])
    return num_stages + 1 if path[1] == "stem" else 0


class RMSpropTF(Optimizer):
    """RMSProp as TensorFlow computes it, the optimizer of the paper.

    Differs from `torch.optim.RMSprop`: epsilon is inside the root, the mean square starts at one, and the learning rate
    is inside the momentum buffer. Source: tensorflow/python/training/rmsprop.py; settings of the paper: decay 0.9,
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
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(group, params)
        return loss

    def _step_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
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


OPTIMIZERS = ("sgd", "adamw", "rmsprop")


def build_optimizer(name: str, groups: list[dict[str, Any]], lr: float, momentum: float) -> Optimizer:
    """An optimizer over parameter groups that carry their own `lr` and `weight_decay`.

    Args:
        name: `sgd` (Nesterov), `adamw` (betas 0.9, 0.999; `momentum` plays no role) or `rmsprop` (TensorFlow's).
        momentum: of sgd and rmsprop.

    Raises:
        UserError: no such optimizer.
    """
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    if name == "adamw":
        return AdamW(groups, lr=lr)
    if name == "rmsprop":
        return RMSpropTF(groups, lr=lr, momentum=momentum)
    raise unknown_name("optimizer", name, OPTIMIZERS)


SCHEDULES = ("cosine", "exponential", "constant")


def schedule_factor(
    name: str, step: int, total_steps: int, steps_per_epoch: int, warmup_steps: int, decay_epochs: float = 2.4
) -> float:
    """Learning rate of a step relative to the peak, in [0, 1].

    Args:
        name: `cosine` to zero at `total_steps`; `exponential`, the paper's: times 0.97 every `decay_epochs` epochs in
            steps, counted from step 0; `constant`.
        step: optimizer steps taken so far.
        warmup_steps: linear from zero to the peak.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if name == "cosine":
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    if name == "exponential":
        return 0.97 ** math.floor(step / (decay_epochs * steps_per_epoch))
    if name == "constant":
        return 1.0
    raise unknown_name("schedule", name, SCHEDULES)


def batch_norm_momentum(steps_per_epoch: int, total_steps: int) -> float:
    """Weight of the new batch in BatchNorm's running statistics (torch convention) while fine-tuning.

    Kornblith, Shlens & Le 2019 adapt TensorFlow's momentum to the dataset: max(1 - 10 / s, 0.9) with s steps per epoch,
    which is min(10 / s, 0.1) here. In a run too short for that, the statistics are still half the checkpoint's when it
    ends, and evaluation fails while the training loss looks fine; so their memory, 1 / momentum steps, is kept to at
    most a fortieth of the run. More than 0.3 would leave the statistics of the last few batches only.

    Raises:
        UserError: fewer than one step.
    """
    if steps_per_epoch < 1 or total_steps < 1:
        raise BadValue(f"a run needs at least one step (per epoch {steps_per_epoch}, in all {total_steps})")
    return max(min(10 / steps_per_epoch, 0.1), min(40 / total_steps, 0.3))
