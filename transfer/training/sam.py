"""Sharpness-aware minimization (Foret et al. 2021, arXiv 2010.01412) around any optimizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Replay = Callable[[], AbstractContextManager[None]]


class SAM(Optimizer):
    """Steps with the gradient at the worst nearby weights instead of the one at the weights themselves.

    A step computes the closure at the weights w, moves to w + rho * g / |g| with g the gradient of all parameters
    together, computes the closure there, goes back to w and lets the wrapped optimizer step with that second gradient.
    Weight decay belongs to the wrapped optimizer and takes no part in g. If the closure's backward pass leaves the same
    gradients on all processes, as under DDP, all of them move to the same place. Groups and state are the wrapped
    optimizer's own, so schedules and checkpoints see no difference.

    Args:
        optimizer: the optimizer that takes the step.
        rho: length of the move, above 0 (paper: 0.05).
        replay: called before the first pass; returns the context of the second one, in which the closure must draw
            the same random numbers and leave no trace but its gradient.
    """

    def __init__(self, optimizer: Optimizer, rho: float, replay: Replay = nullcontext) -> None:
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer = optimizer
        self.rho = rho
        self.replay = replay
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return the closure's result at the weights themselves."""
        if closure is None:
            raise TypeError("SAM computes the gradient twice: step() needs the closure that does")
        second_pass = self.replay()
        with torch.enable_grad():
            result = closure()
        moved, before = self._ascend()
        with second_pass, torch.enable_grad():
            closure()
        if moved:
            torch._foreach_copy_(moved, before)
        self.optimizer.step()
        return result

    def _ascend(self) -> tuple[list[Tensor], list[Tensor]]:
        """Move the parameters that have a gradient; return them and their values before."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return [], []
        before = [parameter.clone() for parameter in parameters]
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        torch._foreach_add_(parameters, torch._foreach_mul(grads, self.rho / (norm + 1e-12)))
        return parameters, before

    def state_dict(self) -> dict[str, Any]:
        """Return the wrapped optimizer's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state into the wrapped optimizer."""
        self.optimizer.param_groups = self.param_groups  # a resumed Lightning callback sets groups that it had added
        self.optimizer.load_state_dict(state_dict)
        self._share()
