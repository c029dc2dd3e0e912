"""When a training step gets where: the end of the forward pass, and each gradient, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from transfer.costs.bare_steps import Batch, enough_memory, random_batch, synchronize, training_step
from transfer.costs.data_parallel import Gradient, Timeline
from transfer.costs.live_bytes import Precision

_WARM_UP, _STEPS = 2, 3


def measure_timeline(
    network: nn.Module, image_size: int, batch_size: int, device: torch.device, *, precision: Precision
) -> Timeline:
    """Measure a training step on noise; see `training_step`.

    Raises:
        UserError: there is too little memory.
    """
    with enough_memory(batch_size, image_size):
        step = training_step(network, device, precision=precision)
        batch = random_batch(image_size, batch_size, device)
        time_steps(network, step, batch, device, _WARM_UP)
        return median_timeline(time_steps(network, step, batch, device, _STEPS))


def time_steps(
    network: nn.Module, step: Callable[[Batch], None], batch: Batch, device: torch.device, number: int
) -> list[Timeline]:
    """Return the timelines of this number of steps.

    The backward pass ends with its last gradient, that of the first layer.

    Args:
        network: what `step` trains, on the device.
        step: runs a forward and a backward pass and updates the parameters.
        batch: what it is given.
        device: the device.
        number: number of steps.
    """
    timelines = []
    ready: list[tuple[int, Any]] = []
    forward: list[Any] = []

    def note(parameter: Tensor) -> None:
        ready.append((parameter.nbytes, _now(device)))

    def leave(*_: Any) -> None:
        forward.append(_now(device))

    with ExitStack() as stack:
        stack.callback(network.register_forward_hook(leave).remove)
        for parameter in network.parameters():
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
                stack.callback(hook.remove)
        for _ in range(number):
            ready.clear()
            started = _now(device)
            step(batch)
            ended = _now(device)
            synchronize(device)
            gradients = tuple(Gradient(size, _seconds(forward[-1], moment)) for size, moment in ready)
            backward = gradients[-1].ready
            optimizer = _seconds(ready[-1][1], ended)
            timelines.append(Timeline(_seconds(started, forward[-1]), backward, optimizer, gradients))
    return timelines


def median_timeline(timelines: Sequence[Timeline]) -> Timeline:
    """Return the median of each number of several steps of one network."""

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    each = zip(*(timeline.gradients for timeline in timelines), strict=True)
    gradients = tuple(Gradient(same[0].size, median([gradient.ready for gradient in same])) for same in each)
    return Timeline(
        median([timeline.forward for timeline in timelines]),
        median([timeline.backward for timeline in timelines]),
        median([timeline.optimizer for timeline in timelines]),
        gradients,
    )


def _now(device: torch.device) -> Any:
    """Return the present moment; on a GPU, the one at which it gets here."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _seconds(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3
