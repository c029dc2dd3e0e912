"""Parameter groups and optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

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
            if all(p.device.type == "cpu" for p in params):
                for p in params:  # one by one, what is read again stays in the cache
                    self._step_together(group, [p])
            else:
                self._step_together(group, params)
        return loss

    def _step_together(self, group: ParameterGroup, params: list[Tensor]) -> None:
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


def _sgd(groups: list[ParameterGroup], lr: float, momentum: float, fused: bool | None) -> Optimizer:
    return SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)


def _adamw(groups: list[ParameterGroup], lr: float, momentum: float, fused: bool | None) -> Optimizer:
    return AdamW(groups, lr=lr, fused=fused)


def _rmsprop(groups: list[ParameterGroup], lr: float, momentum: float, fused: bool | None) -> Optimizer:
    return RMSpropTF(groups, lr=lr, momentum=momentum)


OPTIMIZERS: dict[str, Callable[[list[ParameterGroup], float, float, bool | None], Optimizer]] = {
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


def build_optimizer(
    name: str, groups: list[ParameterGroup], lr: float, momentum: float, *, fused: bool = True
) -> Optimizer:
    """Return an optimizer over parameter groups that carry their own `lr` and `weight_decay`.

    Args:
        name: `sgd` (Nesterov), `adamw` (betas 0.9 and 0.999; it ignores `momentum`) or `rmsprop` (TensorFlow's).
        groups: see `parameter_groups`.
        lr: learning rate of groups without one.
        momentum: momentum of sgd and rmsprop, in [0, 1).
        fused: take torch's fused kernels where they are right (`has_fused_kernels`). They unscale gradients
            themselves, so Lightning refuses to clip these in mixed precision.

    Raises:
        UserError: unknown optimizer.
    """
    check_optimizer(name)
    fused = fused and all(has_fused_kernels(parameter) for group in groups for parameter in group["params"])
    optimizer = OPTIMIZERS[name](groups, lr, momentum, fused or None)
    optimizer.register_load_state_dict_post_hook(_lay_out_as_parameters)
    return optimizer


def has_fused_kernels(parameter: Tensor) -> bool:
    """Return whether torch's fused SGD and AdamW take a parameter; the SGD for CPUs is wrong in bfloat16 (2.13)."""
    return parameter.device.type in ("cpu", "cuda") and parameter.dtype in (torch.float32, torch.float64)


def _lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Give loaded state the layout of its parameter: the fused kernels for CPUs read both in the order of memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
