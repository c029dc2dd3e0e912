"""Seconds of tracing, exporting and compiling, and differences at other image sizes: python -m benchmarks tracing

Each way starts from one image size and is used at others, where padding falls otherwise. Differences are relative to
the largest logit. ONNX needs the packages onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transfer.networks.classifier import Classifier
from transfer.weights.build import build_classifier

# The size that is traced, and another at which the trace is used: at 96 and 97 pixels every padding differs.
SIZE_PAIRS = [((97, 97), (96, 96)), ((96, 96), (97, 97)), ((64, 97), (129, 64)), ((80, 80), (65, 130))]

Network = Callable[[Tensor], Tensor]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `benchmark_tracing` takes."""
    parser.add_argument("--backbone", default="lite0", help="with its default weights; default: lite0")


def benchmark_tracing(backbone: str) -> dict[str, Any]:
    """Return seconds and the largest difference of each way, over all size pairs."""
    classifier = build_classifier(backbone, pretrained=True).eval().requires_grad_(False)
    ways: dict[str, Callable[[Classifier, Tensor], Any]] = {
        "torch.jit.trace": trace,
        "torch.fx.symbolic_trace": lambda network, _: torch.fx.symbolic_trace(network),
        "torch.export": export,
        "torch.compile": lambda network, _: torch.compile(network),
        "torch.onnx.export(dynamo=False)": lambda network, images: to_onnx(network, images, dynamo=False),
        "torch.onnx.export(dynamo=True)": lambda network, images: to_onnx(network, images, dynamo=True),
    }
    return {"backbone": backbone, "size_pairs": SIZE_PAIRS} | {
        name: measure(way, classifier) for name, way in ways.items()
    }


def measure(way: Callable[[Classifier, Tensor], Any], classifier: Classifier) -> dict[str, float]:
    """Return the most seconds that one size pair takes, uses included, and the largest relative difference."""
    seconds, differences = [], []
    for traced, used in SIZE_PAIRS:
        torch._dynamo.reset()
        started = time.perf_counter()
        network = way(classifier, images(traced))
        outputs = {size: network(images(size)) for size in (traced, used)}
        seconds.append(time.perf_counter() - started)
        for size, logits in outputs.items():
            expected = classifier(images(size))
            differences.append(float((logits - expected).abs().max() / expected.abs().max()))
    return {"seconds": round(max(seconds), 1), "relative_difference": max(differences)}


def images(size: tuple[int, int]) -> Tensor:
    """Return two images of noise of a height and width in pixels."""
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def trace(network: Classifier, images: Tensor) -> Network:
    """Return the network as traced at one size."""
    traced: Network = torch.jit.trace(network, images)  # type: ignore[no-untyped-call]  # torch's types
    return traced


def export(network: Classifier, images: Tensor) -> Network:
    """Return the network as exported with a dynamic batch, height and width."""
    sides = {0: torch.export.Dim("n", max=64), 2: torch.export.Dim("h", min=64), 3: torch.export.Dim("w", min=64)}
    return torch.export.export(network, (images,), dynamic_shapes=(sides,)).module()


def to_onnx(network: Classifier, images: Tensor, *, dynamo: bool) -> Network:
    """Return the network as it runs in onnxruntime, exported with a dynamic batch, height and width."""
    import onnxruntime

    axes = {0: "n", 2: "h", 3: "w"}
    dynamic: dict[str, Any] = {"dynamic_shapes": (axes,)} if dynamo else {"dynamic_axes": {"images": axes}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        torch.onnx.export(network, (images,), file, input_names=["images"], dynamo=dynamo, verbose=False, **dynamic)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
