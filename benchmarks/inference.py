"""Images per second of every installed engine, of the plain network and of timm: python -m benchmarks inference

Ours keep freed memory, as our commands do; the plain network (float32, BatchNorm not folded) and timm have a process of
their own without that. All take turns, batch after batch, channels_last.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from benchmarks.ratios import ratio
from transfer.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Step = Callable[["Tensor"], Any]
_BATCHES = 3  # per turn


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_inference`."""
    parser.add_argument("--backbones", nargs="+", default=("lite0", "b0"), metavar="NAME", help="default: lite0 b0")
    parser.add_argument("--image_size", type=int, default=224, metavar="PX", help="default: 224")
    parser.add_argument("--batch_size", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2), metavar="N", help="default: 1 2")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")


def benchmark_inference(
    backbones: Sequence[str], image_size: int, batch_size: int, threads: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Return the images per second of each contender, as medians, and ratios to the plain network and to timm's best.

    Args:
        backbones: names of the backbones.
        image_size: side of the images, in pixels.
        batch_size: images per batch.
        threads: numbers of threads.
        rounds: number of turns that each contender takes.
    """
    figures: dict[str, Any] = {"image_size": image_size, "batch_size": batch_size, "rounds": rounds}
    for backbone in backbones:
        for number in threads:
            speeds = measure(backbone, image_size, batch_size, number, rounds)
            figures[f"{backbone}, {number} thread{'s' * (number > 1)}"] = compare(speeds)
    return figures


def compare(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Return the median speed of each contender, and its ratios, turn by turn, to the plain network and timm's best."""
    timm = [name for name in speeds if name.startswith("timm")]
    rivals = {"plain": "plain"}
    if timm:
        rivals["timm"] = max(timm, key=lambda name: statistics.median(speeds[name]))
    figures: dict[str, Any] = {}
    for name, values in speeds.items():
        figures[name] = {"images_per_second": round(statistics.median(values), 1)}
        for rival, best in rivals.items():
            figures[name] |= ratio(values, speeds[best], f"ratio_to_{rival}", digits=2)
    return figures


def measure(backbone: str, image_size: int, batch_size: int, threads: int, rounds: int) -> dict[str, list[float]]:
    """Return the images per second of each contender in each round.

    Raises:
        UserError: a process failed.
    """
    context = multiprocessing.get_context("spawn")
    workers = []
    for own in (True, False):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, own, backbone, image_size, batch_size, threads, rounds))
        process.start()
        there.close()
        workers.append((process, here))
    speeds: dict[str, list[float]] = {}
    try:
        for _, pipe in workers:
            pipe.recv()  # built and warm
        for _ in range(rounds):
            for _, pipe in workers:
                pipe.send("go")
                for name, speed in pipe.recv().items():
                    speeds.setdefault(name, []).append(speed)
    except EOFError:
        raise UserError(f"{backbone}, {threads} threads: a process failed") from None
    finally:
        for process, pipe in workers:
            pipe.close()
            process.join()
    return speeds


def work(
    pipe: Connection, own: bool, backbone: str, image_size: int, batch_size: int, threads: int, rounds: int
) -> None:
    """Take a turn with each contender of this process whenever the other end says so."""
    from transfer.commands.process import keep_freed_memory

    if own:
        keep_freed_memory()
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, image_size, image_size).to(memory_format=torch.channels_last)
    steps = (own_engines if own else rivals)(backbone, images)
    with torch.inference_mode():
        for step in steps.values():
            timed(step, images)
        pipe.send("ready")
        for _ in range(rounds):
            pipe.recv()
            pipe.send({name: timed(step, images) for name, step in steps.items()})


def own_engines(backbone: str, images: Tensor) -> dict[str, Step]:
    """Return every installed engine, for a classifier with random weights."""
    from transfer.inference.engines import build_engine
    from transfer.inference.names import ENGINES
    from transfer.weights.build import build_classifier

    classifier = build_classifier(backbone, 10)
    installed = [row.name for row in ENGINES.values() if row.package is None or find_spec(row.package) is not None]
    return {name: build_engine(name, classifier, images) for name in installed}


def rivals(backbone: str, images: Tensor) -> dict[str, Step]:
    """Return the plain network, and timm's in float32 and in bfloat16 by autocast, if it can be imported."""
    import torch

    from benchmarks.networks import load_timm
    from transfer.costs.bare_steps import placed
    from transfer.networks.registry import get_variant
    from transfer.weights.build import build_classifier
    from transfer.weights.code_bases import timm_name

    def ready(network: torch.nn.Module) -> torch.nn.Module:
        return placed(network, torch.device("cpu"), torch.channels_last).eval()

    def with_autocast(network: torch.nn.Module, enabled: bool) -> Step:
        def step(batch: Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16) if enabled else nullcontext():
                return network(batch)

        return step

    steps: dict[str, Step] = {"plain": ready(build_classifier(backbone, 10))}
    try:
        timm = load_timm()
    except UserError:
        return steps
    network = ready(timm.create_model(f"tf_{timm_name(get_variant(backbone).name)}", num_classes=10))
    return {
        **steps,
        "timm float32": with_autocast(network, enabled=False),
        "timm bfloat16": with_autocast(network, enabled=True),
    }


def timed(step: Step, images: Tensor) -> float:
    """Return the images per second of some batches, after one that warms up."""
    step(images)
    started = time.perf_counter()
    for _ in range(_BATCHES):
        step(images)
    return _BATCHES * len(images) / (time.perf_counter() - started)
