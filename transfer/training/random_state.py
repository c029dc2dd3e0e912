"""The state of torch's random numbers, on the CPU and on the device of a module."""

from __future__ import annotations

import torch
from torch import Tensor


def get_random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of the CPU's generator, and of the device's where that is a GPU."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put a state back, as far as it fits the device."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
