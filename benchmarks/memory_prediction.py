"""Predicted against measured memory: python -m benchmarks memory_prediction

Each case is measured in a process of its own: a training step and inference of each network at each image and batch
size. On a CPU, malloc is set to return freed memory at once; another process measures the training step with malloc as
the commands set it, which holds more than is in use (`kept_bytes`; see transfer/commands/process.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from transfer.errors import UserError

NETWORKS = ("b0", "b3", "lite0", "resnet50")
CASES = ("96x32", "160x8", "224x2")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_memory_prediction`."""
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, metavar="NAME", help=f"default: {' '.join(NETWORKS)}"
    )
    parser.add_argument(
        "--cases", nargs="+", default=CASES, metavar="PXxN", help=f"pixels and images; default: {' '.join(CASES)}"
    )
    parser.add_argument(
        "--precisions", nargs="+", default=("32-true",), choices=("32-true", "bf16-mixed"), help="default: 32-true"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")


def benchmark_memory_prediction(
    networks: Sequence[str], cases: Sequence[str], precisions: Sequence[Any], device: str | None
) -> dict[str, Any]:
    """Return the bytes of each case, and the error of the prediction in percent of the measured bytes.

    Args:
        networks: names of the networks.
        cases: image and batch sizes, such as `224x2`.
        precisions: precisions of the computation.
        device: `cpu` or `cuda`; None for cuda if there is one.

    Raises:
        UserError: a network is unknown, the device does not exist, or a case is malformed.
    """
    import torch

    from transfer.costs.bare_steps import choose_device

    sizes = [parse_case(case) for case in cases]
    on_gpu = choose_device(device).type == "cuda"
    rows = []
    for precision in precisions:
        for name in networks:
            for image_size, batch_size in sizes:
                row = measure_case(name, image_size, batch_size, precision, on_gpu)
                print(row, file=sys.stderr, flush=True)
                rows.append(row)
    errors = [abs(row[kind]["error_percent"]) for row in rows for kind in ("training", "inference")]
    return {
        "threads": torch.get_num_threads(),
        "counted": "allocated on the GPU" if on_gpu else "growth of the resident set",
        "cases": rows,
        "largest_error_percent": max(errors),
    }


def parse_case(text: str) -> tuple[int, int]:
    """Return the side in pixels and the number of images of a case such as `224x2`.

    Raises:
        UserError: the text is malformed.
    """
    side, _, images = text.partition("x")
    if not (side.isdecimal() and images.isdecimal() and int(side) and int(images) > 1):
        raise UserError(f"--cases {text!r}: expected pixels and images (at least 2), such as 224x2")
    return int(side), int(images)


def measure_case(name: str, image_size: int, batch_size: int, precision: Any, on_gpu: bool) -> dict[str, Any]:
    """Return the predicted and measured bytes of one case with 1000 classes.

    Raises:
        UserError: the network is unknown, or a process was killed.
    """
    from transfer.commands.process import keep_freed_memory
    from transfer.costs.peak_memory import measure_peak
    from transfer.costs.profile import profile_backbone
    from transfer.weights.build import build_classifier

    counted = profile_backbone(name, image_size, batch_size, precision=precision)
    build = partial(build_classifier, name, 1000)
    row: dict[str, Any] = {"network": name, "image_size": image_size, "batch_size": batch_size, "precision": precision}
    predictions = {"training": counted.training.total(batch_size), "inference": counted.inference_bytes}
    for kind, predicted in predictions.items():
        peak = partial(
            measure_peak,
            build,
            image_size,
            batch_size,
            training=kind == "training",
            precision=precision,
            on_gpu=on_gpu,
        )
        measured = peak()
        row[kind] = {
            "predicted_bytes": predicted,
            "measured_bytes": measured,
            "error_percent": round(100 * (predicted / measured - 1), 2),
        }
        if not on_gpu and kind == "training":
            row[kind]["kept_bytes"] = peak(malloc=keep_freed_memory)
    return row
