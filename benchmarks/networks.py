"""Training images per second by memory layout and precision, and against the same network in timm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmarks.ratios import ratio
from transfer.errors import UserError

if TYPE_CHECKING:
    import torch

    from transfer.networks.rows import Variant


def benchmark_train(
    backbone: str, image_size: int, batch_size: int, steps: int = 20, rounds: int = 5
) -> dict[str, Any]:
    """Return images per second in float32 and bf16 autocast, contiguous and channels_last, relative to the first case.

    Args:
        backbone: name of the backbone.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        steps: number of timed steps per round.
        rounds: number of alternating rounds.
    """
    import torch

    from transfer.costs.bare_steps import training_step
    from transfer.costs.memory import Precision
    from transfer.weights.build import build_classifier

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    targets = torch.randint(10, (batch_size,), device=device)
    precisions: dict[str, Precision] = {"float32": "32-true", "bf16": "bf16-mixed"}
    cases = {
        f"{name} {layout}": (precision, memory_format)
        for name, precision in precisions.items()
        for layout, memory_format in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last))
    }
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (precision, memory_format) in cases.items():
            step = training_step(
                build_classifier(backbone, 10), device, memory_format=memory_format, precision=precision
            )
            images = torch.randn(batch_size, 3, image_size, image_size, device=device).to(memory_format=memory_format)
            speeds[name].append(batch_size / timed(step, [(images, targets)] * steps, device))
    figures: dict[str, Any] = {"backbone": backbone, "image_size": image_size, "batch_size": batch_size}
    first = statistics.median(speeds[next(iter(cases))])
    for name, values in speeds.items():
        figures[name] = {
            "images_per_second": round(statistics.median(values), 1),
            "ratio": round(statistics.median(values) / first, 3),
        }
    return figures


def benchmark_peer(
    backbone: str, image_size: int, batch_size: int, steps: int = 20, rounds: int = 5, compile: bool = False
) -> dict[str, Any]:
    """Return the training images per second of `build_classifier` and of the same network in timm, relative to timm's.

    Both use the same batch, optimizer, loss, drop rates, channels_last and precision (bf16 autocast on a GPU), and
    random weights. On a GPU, `peak_memory_bytes` is a contender's peak allocation in its second step, less the batch.

    With `compile`, both are compared with torch.compile, too.

    Raises:
        UserError: the backbone is unknown, or timm cannot be imported.
    """
    import torch

    from transfer.costs.bare_steps import random_batch, training_step
    from transfer.networks.registry import get_variant

    variant = get_variant(backbone)
    timm = load_timm()
    names = ["own", "timm", *(["own compiled", "timm compiled"] if compile else [])]
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = random_batch(image_size, batch_size, device)
    contenders: dict[str, Callable[[Any], None]] = {}
    figures: dict[str, Any] = {"backbone": variant.name, "peer": peer_name(variant), "timm_version": timm.__version__}
    figures |= {"image_size": image_size, "batch_size": batch_size}
    for name in names:
        allocated = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        model = build_own(variant) if name.startswith("own") else build_peer(variant)
        figures[name] = {"num_parameters": sum(p.numel() for p in model.parameters())}
        contenders[name] = training_step(model, device, compiled=name.endswith("compiled"))
        if device.type == "cuda":
            contenders[name](batch)
            torch.cuda.reset_peak_memory_stats()
            contenders[name](batch)
            figures[name]["peak_memory_bytes"] = torch.cuda.max_memory_allocated() - allocated

    speeds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in contenders.items():
            speeds[name].append(batch_size / timed(step, [batch] * steps, device))
    for name, values in speeds.items():
        figures[name] |= {
            "images_per_second": round(statistics.median(values), 1),
            **ratio(values, speeds["timm"]),
        }
    return figures


def build_own(variant: Variant) -> torch.nn.Module:
    """Return our network with ten classes, random weights and `build_peer`'s drop rates."""
    from transfer.weights.build import build_classifier

    return build_classifier(variant.name, 10, stochastic_depth_prob=0.2)


def build_peer(variant: Variant) -> torch.nn.Module:
    """Return timm's.

    Raises:
        UserError: timm cannot be imported.
    """
    network: torch.nn.Module = load_timm().create_model(
        peer_name(variant), num_classes=10, drop_rate=variant.dropout_rate, drop_path_rate=0.2
    )
    return network


def peer_name(variant: Variant) -> str:
    """Return timm's name of the same network: the one with the same padding."""
    from transfer.weights.code_bases import timm_name

    return f"tf_{timm_name(variant.name)}"


def load_timm() -> ModuleType:
    """Return the module timm.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return import_module("timm")
    except Exception as error:  # a torchvision made for another torch raises RuntimeError
        raise UserError(
            f"timm cannot be imported ({error}); run: pip install timm. It needs the release of torchvision that"
            " matches the installed torch"
        ) from None


def timed(step: Callable[[Any], None], batches: Sequence[Any], device: Any) -> float:
    """Return the seconds per step, after three warm-up steps."""
    from transfer.costs.bare_steps import synchronize

    for batch in batches[:3]:
        step(batch)
    synchronize(device)
    started = time.perf_counter()
    for batch in batches:
        step(batch)
    synchronize(device)
    return (time.perf_counter() - started) / len(batches)
