"""How long a network takes for a batch of images, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from transfer.costs.bare_steps import enough_memory, forward_pass, random_batch, synchronize
from transfer.costs.live_bytes import Precision
from transfer.environment import cpu_name

RUNS = 20  # as the paper's Table 4
_WARM_UP = 3


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass over a batch.

    Attributes:
        device: the GPU, or the number of threads and the processor.
        part_ms: median of each part of the network that was asked for.
    """

    batch_size: int
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    runs: int
    device: str
    part_ms: Mapping[str, float]

    @property
    def images_per_second(self) -> float:
        """Images per second at the median."""
        return 1e3 * self.batch_size / self.median_ms


def measure_latency(
    network: nn.Module,
    image_size: int,
    batch_size: int = 1,
    *,
    device: torch.device | None = None,
    precision: Precision = "32-true",
    threads: int | None = None,
    runs: int = RUNS,
    channels: int = 3,
    parts: Mapping[str, Sequence[nn.Module]] | None = None,
) -> Latency:
    """Measure the latency of inference on noise; moves the network to the device, channels_last, in eval mode.

    Args:
        network: the network.
        image_size: side of the images, in pixels.
        batch_size: number of images.
        device: the device that computes; None takes the processor.
        precision: precision of the computation.
        threads: number of the processor's threads; None keeps PyTorch's.
        runs: number of timed runs, after three that warm up.
        channels: of the images.
        parts: submodules to time as well, in as many runs of their own.

    Raises:
        UserError: there is too little memory.
    """
    device = device or torch.device("cpu")
    with limited_threads(threads), enough_memory(batch_size, image_size):
        forward = forward_pass(network, device, precision=precision)
        images, _ = random_batch(image_size, batch_size, device, channels)

        def run() -> float:
            synchronize(device)
            started = time.perf_counter()
            forward(images)
            synchronize(device)
            return 1e3 * (time.perf_counter() - started)

        for _ in range(_WARM_UP):
            run()
        times = [run() for _ in range(runs)]
        part_ms = _time_parts(parts, run, runs, device) if parts else {}
        quartiles = statistics.quantiles(times, n=4, method="inclusive") if runs > 1 else times * 3
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else describe_threads()
    return Latency(batch_size, quartiles[1], quartiles[0], quartiles[2], runs, name, part_ms)


def _time_parts(
    parts: Mapping[str, Sequence[nn.Module]], run: Any, runs: int, device: torch.device
) -> dict[str, float]:
    """Return the median milliseconds of each part."""
    started: list[float] = []
    spent: dict[str, list[float]] = {name: [] for name in parts}

    def enter(*_: Any) -> None:
        synchronize(device)
        started.append(time.perf_counter())

    def leave(*_: Any, name: str) -> None:
        synchronize(device)
        spent[name][-1] += 1e3 * (time.perf_counter() - started.pop())

    with ExitStack() as stack:
        for name, modules in parts.items():
            for module in modules:
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(partial(leave, name=name)).remove)
        for _ in range(runs):
            for times in spent.values():
                times.append(0.0)
            run()
    return {name: statistics.median(times) for name, times in spent.items()}


@contextmanager
def limited_threads(number: int | None) -> Iterator[None]:
    """Limit PyTorch to this number of threads for a while; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_threads() -> str:
    """Return how many threads PyTorch uses, and of which processor."""
    number = torch.get_num_threads()
    return f"{number} thread{'s' if number > 1 else ''} of {cpu_name() or 'an unknown processor'}"
