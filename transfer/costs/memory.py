"""How much memory a training step or inference will take, before it is taken."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.costs.live_bytes import BATCH, LiveBytes, run_without_memory, without_memory
from transfer.costs.live_bytes import Precision as Precision


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step at its peak.

    Attributes:
        fixed: parameters, their gradients, the optimizer's state and buffers.
        per_image: what each image of a large batch adds: itself, what autograd keeps of it, what is being computed.
        moments: (bytes of any batch, bytes for each image) at the moments of the step that are the peak for some batch
            size: with few images it may be another than with many.
    """

    fixed: int
    per_image: int
    moments: tuple[tuple[int, int], ...]

    def total(self, batch_size: int) -> int:
        """Return the bytes at the peak of a step of so many images."""
        return max(fixed + batch_size * per_image for fixed, per_image in self.moments)


def training_memory(network: nn.Module, image_size: int, *, precision: Precision = "32-true") -> TrainingMemory:
    """Predict the peak of a training step: cross entropy, SGD with momentum, gradients set to None before.

    The step is taken on the meta device, where tensors have shapes and no memory; the network stays as it is.

    Args:
        network: gives logits (N, num_classes, ...) of images (N, 3, S, S); on any device.
        image_size: S, in pixels.

    Raises:
        UserError: the network gives something else.
    """
    live = LiveBytes()
    with without_memory(network, training=True) as tensors, live:
        live.add(tensors)
        gradients = sum(tensor.nbytes for tensor in tensors if tensor.requires_grad)
        live.fixed += 2 * gradients  # momentum, and gradients of the step before
        state = live.fixed
        loss = F.cross_entropy(*run_without_memory(network, BATCH, image_size, precision))
        live.fixed -= gradients
        if loss.requires_grad:
            torch.autograd.backward(loss)
    moments = live.peaks()
    return TrainingMemory(state, moments[0][1], moments)


def inference_memory(network: nn.Module, image_size: int, batch_size: int, precision: Precision = "32-true") -> int:
    """Predict the bytes at the peak of inference: parameters, buffers, images and the maps alive at a time.

    Args and Raises: as `training_memory`.
    """
    live = LiveBytes()
    with without_memory(network, training=False) as tensors, torch.no_grad(), live:
        live.add(tensors)
        run_without_memory(network, BATCH, image_size, precision)
    return max(fixed + batch_size * per_image for fixed, per_image in live.peaks())


@dataclass(frozen=True)
class PartMemory:
    """Bytes for each image in one part of a network.

    Attributes:
        training: what is left when the part has run: its output, and what the backward pass needs.
        inference: the most that is alive at a time while the part runs, the maps that come in among them.
    """

    training: int
    inference: int


def part_memory(
    network: nn.Module,
    parts: Mapping[str, Sequence[nn.Module]],
    image_size: int,
    *,
    precision: Precision = "32-true",
) -> dict[str, PartMemory]:
    """Predict the memory of each part: submodules that run one after another and lie in no other part.

    Args and Raises: as `training_memory`.
    """
    training = _follow_parts(network, parts, image_size, precision, training=True)
    inference = _follow_parts(network, parts, image_size, precision, training=False)
    return {name: PartMemory(training[name][0], inference[name][1]) for name in parts}


def _follow_parts(
    network: nn.Module,
    parts: Mapping[str, Sequence[nn.Module]],
    image_size: int,
    precision: Precision,
    training: bool,
) -> dict[str, tuple[int, int]]:
    """Return the bytes per image that each part of a forward pass adds and leaves, and the most alive within."""
    live = LiveBytes()
    before: list[int] = []
    found = dict.fromkeys(parts, (0, 0))

    def enter(*_: Any) -> None:
        before.append(live.per_image)
        live.forget()

    def leave(*_: Any, name: str) -> None:
        left, most = found[name]
        found[name] = left + live.per_image - before.pop(), max(most, live.peaks()[0][1])

    with ExitStack() as stack:
        for name, modules in parts.items():
            for module in modules:
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(partial(leave, name=name)).remove)
        live.add(stack.enter_context(without_memory(network, training)))
        stack.enter_context(torch.set_grad_enabled(training))
        stack.enter_context(live)
        run_without_memory(network, BATCH, image_size, precision)
    return found


def on_meta(network: nn.Module, image_size: int) -> Tensor:
    """Return a network's output for one image in evaluation mode on the meta device, for counters.

    Args and Raises: as `training_memory`.
    """
    with without_memory(network, training=False):
        return run_without_memory(network, 1, image_size, "32-true")[0]


def largest_batch(memory: int | None, needed: TrainingMemory) -> int | None:
    """Return how many images of a training step fit in so many bytes, at least 0; None if these are unknown."""
    if memory is None:
        return None
    fits = [(memory - fixed) // per_image if per_image else memory - fixed for fixed, per_image in needed.moments]
    return max(min(fits), 0)


def usable_memory() -> tuple[int | None, str | None]:
    """Return the bytes that training may take: 90% of the GPU's memory, else half of the machine's, or None."""
    if torch.cuda.is_available():
        return int(0.9 * torch.cuda.get_device_properties(0).total_memory), "gpu"
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, "ram"
    except (AttributeError, ValueError, OSError):
        return None, None
