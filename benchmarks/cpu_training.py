"""A training step on a CPU against timm's implementation of the same network: python -m benchmarks cpu_training

Ours in float32 and in bf16 autocast, with freed memory kept as in every command, and timm's in both precisions and both
memory layouts, as a script of one's own would run it: same batch, optimizer, loss and drop rates, random weights. Each
has a process of its own; once all are warm, they take turns. What is compared is the fastest of ours and of timm's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.ratios import ratio
from transfer.commands.process import keep_freed_memory
from transfer.errors import UserError, check_count

if TYPE_CHECKING:
    from transfer.costs.live_bytes import Precision

_WARM_UP = 5  # steps: the first touches of memory are dearer than the later ones


class Setting(NamedTuple):
    """Whose network it is, and how it is trained."""

    source: str
    precision: str
    layout: str = "channels_last"

    @property
    def name(self) -> str:
        return " ".join(self)


SETTINGS = (
    *(Setting("own", precision) for precision in ("float32", "bf16")),
    *(
        Setting("timm", precision, layout)
        for precision in ("float32", "bf16")
        for layout in ("channels_last", "contiguous")
    ),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_cpu_training`."""
    parser.add_argument("--backbones", nargs="+", default=("b0", "lite0"), metavar="NAME", help="default: b0 lite0")
    parser.add_argument("--image_size", type=int, default=224, metavar="PX", help="default: 224")
    parser.add_argument("--batch_size", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each process; default: 1")
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="per round; default: 2")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")


def benchmark_cpu_training(
    backbones: Sequence[str], image_size: int, batch_size: int, threads: int, steps: int, rounds: int
) -> dict[str, Any]:
    """Return the training images per second of every setting, and how those of our fastest relate to timm's fastest.

    Args:
        backbones: names of the backbones.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        threads: threads of each process.
        steps: steps per round.
        rounds: number of rounds, in each of which every setting has its turn.

    Raises:
        UserError: a number is too small, a backbone is unknown, timm cannot be imported, or a process failed.
    """
    for name, value in {"threads": threads, "steps": steps, "rounds": rounds}.items():
        check_count(name, value, 1)
    check_count("batch_size", batch_size, 2)
    from benchmarks.networks import load_timm
    from transfer.networks.registry import get_variant

    variants = [get_variant(name) for name in backbones]
    figures: dict[str, Any] = {"timm_version": load_timm().__version__, "threads": threads}
    figures |= {"image_size": image_size, "batch_size": batch_size, "steps": steps, "rounds": rounds}
    for variant in variants:
        with ExitStack() as stack:
            case = (variant.name, image_size, batch_size, threads)
            contenders = {setting: stack.enter_context(contender(setting, *case)) for setting in SETTINGS}
            for contestant in contenders.values():
                contestant.send(_WARM_UP)
            for setting, contestant in contenders.items():
                seconds(setting, contestant)
            speeds: dict[Setting, list[float]] = {setting: [] for setting in SETTINGS}
            for _ in range(rounds):
                for setting, contestant in contenders.items():
                    contestant.send(steps)
                    speeds[setting].append(batch_size * steps / seconds(setting, contestant))
        figures[variant.name] = compare(speeds)
    return figures


@contextmanager
def contender(setting: Setting, backbone: str, image_size: int, batch_size: int, threads: int) -> Iterator[Connection]:
    """Start a process that runs as many steps as it is sent, and answers with their seconds; at the end, stop it."""
    spawn = multiprocessing.get_context("spawn")
    ours, its = spawn.Pipe()
    process = spawn.Process(target=contend, args=(its, setting, backbone, image_size, batch_size, threads), daemon=True)
    process.start()
    its.close()  # so that ours ends with the process
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def seconds(setting: Setting, contestant: Connection) -> float:
    """Return the answer of a process.

    Raises:
        UserError: it failed.
    """
    try:
        answer: float = contestant.recv()
    except (EOFError, ConnectionError):
        raise UserError(f"the process of {setting.name} failed") from None
    return answer


def contend(
    orders: Connection, setting: Setting, backbone: str, image_size: int, batch_size: int, threads: int
) -> None:
    """Train as ordered, in this process."""
    if setting.source == "own":
        keep_freed_memory()
    else:
        os.environ.pop("GOMP_SPINCOUNT", None)  # that of `share_cores`
    import torch

    from benchmarks.networks import build_own, build_peer
    from transfer.costs.bare_steps import random_batch, training_step
    from transfer.networks.registry import get_variant

    torch.set_num_threads(threads)
    device = torch.device("cpu")
    layout = torch.channels_last if setting.layout == "channels_last" else torch.contiguous_format
    network = (build_own if setting.source == "own" else build_peer)(get_variant(backbone))
    precision: Precision = "bf16-mixed" if setting.precision == "bf16" else "32-true"
    step = training_step(network, device, precision=precision, memory_format=layout)
    images, targets = random_batch(image_size, batch_size, device)
    batch = (images.contiguous(memory_format=layout), targets)
    while True:
        steps = orders.recv()
        started = time.perf_counter()
        for _ in range(steps):
            step(batch)
        orders.send(time.perf_counter() - started)


def compare(speeds: Mapping[Setting, Sequence[float]]) -> dict[str, Any]:
    """Return the medians of the rounds, and our fastest setting's ratio to timm's with its range over the rounds."""
    medians = {setting: statistics.median(values) for setting, values in speeds.items()}
    own, timm = (max((s for s in medians if s.source == source), key=medians.__getitem__) for source in ("own", "timm"))
    return {
        "images_per_second": {setting.name: round(median, 1) for setting, median in medians.items()},
        "compared": [own.name, timm.name],
        **ratio(speeds[own], speeds[timm]),
    }
