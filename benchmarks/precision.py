"""Training on a CPU in float32, in bf16 autocast, and in another memory layout: python -m benchmarks precision

The processor's seconds of a training step with channels_last weights in float32 and in bf16 autocast, and with
contiguous weights in float32. The three alternate; ratios are of steps side by side.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.memory_prediction import parse_case
from benchmarks.ratios import ratio

NETWORKS = ("b0", "lite0", "v2-s", "mobilenet-v2", "resnet50")
CASES = ("224x8", "96x16", "64x32")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_precision`."""
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, metavar="NAME", help=f"default: {' '.join(NETWORKS)}"
    )
    parser.add_argument(
        "--cases", nargs="+", default=CASES, metavar="PXxN", help=f"pixels and images; default: {' '.join(CASES)}"
    )
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each contender; default: 3")


def benchmark_precision(networks: Sequence[str], cases: Sequence[str], steps: int) -> dict[str, Any]:
    """Return images per processor second of each network and case, and the speed relative to channels_last float32.

    Args:
        networks: names of the networks.
        cases: image and batch sizes, such as `224x8`.
        steps: timed steps of each contender.

    Raises:
        UserError: a network is unknown, or a case is malformed.
    """
    import torch

    from transfer.networks.bfloat16 import computes_bf16

    sizes = [parse_case(case) for case in cases]
    figures: dict[str, Any] = {"threads": torch.get_num_threads()}
    figures["bf16_is_native"] = computes_bf16(torch.device("cpu"))
    for name in networks:
        for image_size, batch_size in sizes:
            row = compare(name, image_size, batch_size, steps)
            print(name, image_size, batch_size, row, file=sys.stderr, flush=True)
            figures.setdefault(name, {})[f"{image_size}x{batch_size}"] = row
    return figures


def compare(name: str, image_size: int, batch_size: int, steps: int) -> dict[str, Any]:
    """Return images per processor second of each contender, and its speed relative to the first one's.

    Args:
        name: name of the network.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        steps: timed steps of each contender.
    """
    import torch

    from transfer.costs.bare_steps import random_batch, training_step
    from transfer.costs.live_bytes import Precision
    from transfer.weights.build import build_classifier

    cpu, batch = torch.device("cpu"), random_batch(image_size, batch_size, torch.device("cpu"))
    settings: dict[str, tuple[Precision, torch.memory_format]] = {
        "float32": ("32-true", torch.channels_last),
        "bf16": ("bf16-mixed", torch.channels_last),
        "float32 contiguous": ("32-true", torch.contiguous_format),
    }
    contenders = {
        label: training_step(
            build_classifier(name, 10, load_weights=False), cpu, precision=precision, memory_format=layout
        )
        for label, (precision, layout) in settings.items()
    }
    seconds: dict[str, list[float]] = {label: [] for label in contenders}
    for round_number in range(2 + steps):
        for label, step in contenders.items():
            started = time.process_time()
            step(batch)
            if round_number >= 2:  # the first ones touch new memory
                seconds[label].append(time.process_time() - started)
    row: dict[str, Any] = {}
    for label, values in seconds.items():
        row[label] = {"images_per_processor_second": round(batch_size / statistics.median(values), 1)}
        if label != "float32":
            row[label] |= ratio(seconds["float32"], values, "speed")
    return row
