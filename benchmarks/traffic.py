"""Operators and memory traffic of a training step, against timm's same network: python -m benchmarks traffic

Counted on tensors without memory, so it needs no GPU: the bytes that each operator of an eager step in bf16 autocast
has to read and to write, each argument and each result once. Divided by a card's bandwidth, they are a floor under the
time of the step.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.networks import build_own, build_peer
from transfer.costs import meta_calls
from transfer.costs.live_bytes import run_without_memory, without_memory
from transfer.errors import BadValue
from transfer.networks.layers import fold_norms
from transfer.networks.registry import get_variant
from transfer.training.batch_norm import batch_norms

CASES = ("b0@224", "b4@380", "v2-s@300")
_NO_WORK = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view")
_BATCHES = 8, 16


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_traffic`."""
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="NAME@PX", help=f"default: {' '.join(CASES)}")


def benchmark_traffic(cases: Sequence[str]) -> dict[str, Any]:
    """Return operators and bytes of a step of ours, of ours with `--bn frozen` and of timm's, for each case.

    Args:
        cases: backbone and image size, such as `b0@224`.

    Raises:
        UserError: a backbone is unknown, an image size is no number, or timm cannot be imported.
    """
    figures: dict[str, Any] = {"precision": "bf16-mixed", "optimizer": "sgd, momentum, foreach"}
    for case in cases:
        backbone, image_size = parse_case(case)
        variant = get_variant(backbone)
        figures[case] = {
            "own": step_traffic(build_own(variant), image_size),
            "own frozen": step_traffic(build_own(variant), image_size, frozen=True),
            "timm": step_traffic(build_peer(variant), image_size),
        }
        for numbers in figures[case].values():
            numbers["ratio"] = round(numbers["bytes_per_image"] / figures[case]["timm"]["bytes_per_image"], 3)
    return figures


def parse_case(case: str) -> tuple[str, int]:
    """Return backbone and image size of a case such as `b0@224`.

    Raises:
        UserError: it has another form.
    """
    backbone, _, size = case.rpartition("@")
    if not (backbone and size.isdecimal()):
        raise BadValue(f"--cases {case} (allowed: BACKBONE@PIXELS, such as {CASES[0]})")
    return backbone, int(size)


def step_traffic(network: nn.Module, image_size: int, *, frozen: bool = False) -> dict[str, Any]:
    """Return what a step of a network does in bf16 autocast.

    Args:
        network: images -> logits.
        image_size: side of the images, in pixels.
        frozen: whether its BatchNorm uses its statistics in training too.

    Returns:
        `operators` that compute (views do not), `bytes_per_image` of the activations and their gradients, `bytes` of
        parameters, gradients and optimizer, which do not depend on the batch, and the largest shares of the former.
    """
    small, large = (_count(network, image_size, size, frozen) for size in _BATCHES)
    images = _BATCHES[1] - _BATCHES[0]
    per_image = {name: (large.bytes[name] - small.bytes[name]) / images for name in large.bytes}
    total = sum(per_image.values())
    largest = sorted(per_image, key=lambda name: -per_image[name])[:6]
    return {
        "operators": sum(large.calls.values()),
        "bytes_per_image": round(total),
        "bytes": round(sum(small.bytes.values()) - total * _BATCHES[0]),
        "operators_of": {name: large.calls[name] for name in largest},
        "megabytes_per_image_of": {name: round(per_image[name] / 1e6, 1) for name in largest},
    }


def freeze_batch_norm(network: nn.Module) -> None:
    """Let the BatchNorm of our network in training mode do what `--bn frozen` does."""
    fold_norms(network)
    for norm in batch_norms(network):
        norm.eval()


def _count(network: nn.Module, image_size: int, batch_size: int, frozen: bool) -> _Traffic:
    """Count the second step, which has momentum and gradients to replace."""
    with without_memory(network, training=True):
        if frozen:
            freeze_batch_norm(network)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, foreach=True)
        for _ in range(2):
            with _Traffic() as traffic:
                logits, labels = run_without_memory(network, batch_size, image_size, "bf16-mixed")
                loss = F.cross_entropy(logits, labels)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
    return traffic


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]  # missing in its types
    """Counts calls and bytes of each operator that computes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # missing in its types
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function.namespace != "aten":  # the profiler's marks
            return function(*args, **(kwargs or {}))
        result = meta_calls.call(function, args, kwargs or {})
        name = function.overloadpacket.__name__
        if not function.is_view and name not in _NO_WORK:
            changed = [args[i] for i, a in enumerate(function._schema.arguments[: len(args)]) if a.is_write]
            self.calls[name] += 1
            self.bytes[name] += _nbytes((args, kwargs)) + _nbytes((changed, result))
        return result


def _nbytes(tensors: Any) -> int:
    """Return the bytes of the tensors in a structure, each once; what is expanded counts as what is stored."""
    distinct = {id(each): each for each in tree_leaves(tensors) if isinstance(each, Tensor)}
    return sum(min(each.nbytes, each.untyped_storage().nbytes()) for each in distinct.values())
