"""Training with frozen BatchNorm, folded into the convolutions or not: python -m benchmarks frozen_norms

Peak memory of a training step, as predicted and as measured in a process of its own, and the processor's seconds of a
step, with the backbone learning (`--bn frozen`) and with it frozen (`--freeze backbone`). The two alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ratios import ratio
from transfer.networks.classifier import Classifier
from transfer.networks.layers import fold_norms

NETWORKS = ("b0", "lite0")


class Frozen(nn.Module):
    """A network whose norms stay in evaluation mode while it trains."""

    def __init__(self, network: Classifier, folded: bool, backbone_learns: bool = True) -> None:
        super().__init__()
        self.network = network
        network.backbone.requires_grad_(backbone_learns)
        fold_norms(network, folded)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


def build_frozen(name: str, folded: bool, backbone_learns: bool = True) -> Frozen:
    """Return a network with frozen norms and ten classes."""
    from transfer.weights.build import build_classifier

    return Frozen(build_classifier(name, 10, load_weights=False), folded, backbone_learns)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_frozen_norms`."""
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, metavar="NAME", help=f"default: {' '.join(NETWORKS)}"
    )
    parser.add_argument("--image_size", type=int, default=224, help="pixels; default: 224")
    parser.add_argument("--batch_size", type=int, default=16, help="images per step; default: 16")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each case; default: 8")


def benchmark_frozen_norms(networks: Sequence[str], image_size: int, batch_size: int, steps: int) -> dict[str, Any]:
    """Return peak bytes and seconds of a step, folded and not, in float32.

    Args:
        networks: names of the networks.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        steps: timed steps of each case.

    Raises:
        UserError: a network is unknown, or the system does not tell the memory of a process.
    """
    figures: dict[str, Any] = {"image_size": image_size, "batch_size": batch_size, "threads": torch.get_num_threads()}
    for name in networks:
        figures[name] = {
            "bn frozen": {
                **compare_memory(name, image_size, batch_size),
                **compare_seconds(name, image_size, batch_size, steps, backbone_learns=True),
            },
            "freeze backbone": compare_seconds(name, image_size, batch_size, steps, backbone_learns=False),
        }
    return figures


def compare_memory(name: str, image_size: int, batch_size: int) -> dict[str, Any]:
    """Return the predicted and measured peaks of a training step, and how much less the folded ones are."""
    from transfer.costs.memory import training_memory
    from transfer.costs.peak_memory import measure_peak

    on_gpu = torch.cuda.is_available()
    peaks: dict[str, dict[str, int]] = {"predicted": {}, "measured": {}}
    for case, folded in (("plain", False), ("folded", True)):
        build = partial(build_frozen, name, folded)
        peaks["predicted"][case] = training_memory(build(), image_size).total(batch_size)
        peaks["measured"][case] = measure_peak(build, image_size, batch_size, on_gpu=on_gpu)
    return {
        f"{kind}_peak_bytes": {**of, "reduction_percent": round(100 * (1 - of["folded"] / of["plain"]), 1)}
        for kind, of in peaks.items()
    }


def compare_seconds(name: str, image_size: int, batch_size: int, steps: int, backbone_learns: bool) -> dict[str, Any]:
    """Return the median seconds of a step of each case, of the processor where there is no GPU, and their ratio."""
    from transfer.costs.bare_steps import choose_device, random_batch, synchronize, training_step

    device = choose_device(None)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    batch = random_batch(image_size, batch_size, device)
    contenders = {
        case: training_step(build_frozen(name, folded, backbone_learns), device, precision="32-true")
        for case, folded in (("plain", False), ("folded", True))
    }
    seconds: dict[str, list[float]] = {case: [] for case in contenders}
    for round_number in range(2 + steps):
        for case, step in contenders.items():
            started = clock()
            step(batch)
            synchronize(device)
            if round_number >= 2:  # the first ones touch new memory
                seconds[case].append(clock() - started)
    return {
        "seconds_per_step": {case: round(statistics.median(values), 4) for case, values in seconds.items()},
        **ratio(seconds["folded"], seconds["plain"], "time_ratio"),
    }
