"""Training, inference and feature extraction on a GPU against timm, eager and compiled: python -m benchmarks gpu

The contenders of a part share the card, the batch and the run, and take turns; all compute in bf16 and channels_last.
Training has a floor: the bytes that a step moves (`python -m benchmarks traffic`; for a compiled network inductor's
count, without the optimizer) at the bandwidth of a large copy on the same card. Parts are measured in order until the
time is up; those dropped are named. `--device cpu --quick` rehearses every line on tiny sizes; its figures say nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_contenders import Contender, build_contender, build_network, contenders_of
from benchmarks.networks import load_timm
from benchmarks.ratios import ratio
from benchmarks.traffic import parse_case, step_traffic
from transfer.costs.bare_steps import choose_device, random_batch, synchronize
from transfer.errors import BadValue, UserError, is_short_of_memory

# In the order in which they are measured, with images per step.
CASES = {"b0@224": 256, "v2-s@300": 128, "b4@380": 64}
QUICK_CASES = {"lite0@32": 2}
# What a part needs at least, in seconds: compiling takes most of it.
NEEDED = {False: 15.0, True: 90.0}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_gpu`."""
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--quick", action="store_true", help="a rehearsal on tiny sizes")
    parser.add_argument("--seconds", type=float, default=420.0, metavar="S", help="time for all of it; default: 420")


@dataclass(frozen=True)
class Part:
    """What is measured together.

    Attributes:
        task: `training`, `inference` or `features`.
        case: backbone and image size, such as `b0@224`.
        batch_size: images per step.
        compiled: whether compiled networks take part.
    """

    task: str
    case: str
    batch_size: int
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.task} {self.case}{' compiled' if self.compiled else ''}"


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds in which the contenders alternate, seconds of each turn, and files to decode."""

    rounds: int
    turn: float
    files: int
    backend: str
    copied: int

    @classmethod
    def of(cls, quick: bool) -> Effort:
        """Return that of a rehearsal, or of a measurement."""
        return cls(1, 0.0, 8, "eager", 2**20) if quick else cls(5, 0.4, 2048, "inductor", 2**30)


def parts_of(cases: dict[str, int]) -> list[Part]:
    """Return all parts in the order in which they are measured: what compiles comes last."""
    first = next(iter(cases))
    return [
        *(Part(task, *case) for task in ("training", "inference") for case in cases.items()),
        Part("features", first, cases[first]),
        *(Part(task, *case, compiled=True) for task in ("training", "inference") for case in cases.items()),
    ]


def benchmark_gpu(device: str, quick: bool, seconds: float) -> dict[str, Any]:
    """Return images per second, their ratio to timm's, peak memory and the share of the bandwidth floor, part by part.

    Args:
        device: `cuda`, or `cpu` for a rehearsal.
        quick: whether to rehearse on tiny sizes.
        seconds: time after which nothing is begun any more; what compiles has begun 90 s before.

    Raises:
        UserError: there is no GPU, or timm cannot be imported.
    """
    end = time.monotonic() + seconds
    if device == "cpu" and not quick:
        raise BadValue("--device cpu without --quick: a CPU has other benchmarks (allowed: --device cpu --quick)")
    place, timm, effort = choose_device(device), load_timm(), Effort.of(quick)
    torch.manual_seed(0)
    if place.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    bandwidth = copy_bandwidth(place, effort.copied)
    figures: dict[str, Any] = {
        "is_rehearsal": quick,
        "card": torch.cuda.get_device_name() if place.type == "cuda" else "none",
        "timm_version": timm.__version__,
        "copy_bandwidth_bytes_per_second": round(bandwidth),
        "dropped": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for part in parts_of(QUICK_CASES if quick else CASES):
            left = end - time.monotonic()
            if not quick and left < NEEDED[part.compiled]:
                figures["dropped"].append(f"{part}: {left:.0f} s left")
                continue
            try:
                figures[str(part)] = measure(part, place, effort, bandwidth, end, Path(folder))
            except (UserError, RuntimeError) as error:  # the other parts' figures are worth having
                if not (isinstance(error, UserError) or is_short_of_memory(error)):
                    raise
                figures["dropped"].append(f"{part}: {str(error).splitlines()[0]}")
            torch.compiler.reset()
    return figures


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Return the bytes that a copy reads and writes in a second."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), device, 10)


def median_seconds(call: Callable[[], object], device: torch.device, times: int) -> float:
    """Return the median seconds of a call, after one that is not counted."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        call()
        synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def measure(
    part: Part, device: torch.device, effort: Effort, bandwidth: float, end: float, folder: Path
) -> dict[str, Any]:
    """Return the figures of each contender of a part."""
    backbone, image_size = parse_case(part.case)
    batch = random_batch(image_size, part.batch_size, device)
    contenders: dict[str, Contender] = {}
    figures: dict[str, Any] = {"batch_size": part.batch_size, "dropped": []}
    for name in contenders_of(part.task, part.compiled):
        if contenders and time.monotonic() > end:
            figures["dropped"].append(name)
            continue
        contender = build_contender(name, part.task, backbone, batch, device, effort.backend, effort.files, folder)
        contenders[name], figures[name] = contender, warm_up(contender, device)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(effort.rounds):
        for name, contender in contenders.items():
            speeds[name].append(contender.images / turn(contender, device, effort.turn))
    for name, values in speeds.items():
        figures[name] |= {
            "images_per_second": round(statistics.median(values), 1),
            **ratio(values, speeds["timm"], "ratio_to_timm"),
        }
    if part.task == "training":
        add_floors(figures, list(contenders), backbone, image_size, part.batch_size, bandwidth)
    return figures


def warm_up(contender: Contender, device: torch.device) -> dict[str, Any]:
    """Return the seconds of the first call, with compilation, and on a GPU the peak memory of a later one."""
    started = time.perf_counter()
    contender.call()
    synchronize(device)
    figures: dict[str, Any] = {"first_call_seconds": round(time.perf_counter() - started, 1)}
    if contender.inductor is not None:
        figures |= contender.inductor()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        contender.call()
        synchronize(device)
        figures["peak_memory_bytes"] = torch.cuda.max_memory_allocated() - contender.allocated_before
    return figures


def turn(contender: Contender, device: torch.device, seconds: float) -> float:
    """Return the seconds per call over as many calls, at least two, as take about so long."""
    contender.call()
    synchronize(device)
    count, started = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - started < seconds:
        contender.call()
        count += 1
        if count % 8 == 0 or contender.is_slow:  # a queue of bounded length
            synchronize(device)
    synchronize(device)
    return (time.perf_counter() - started) / count


def add_floors(
    figures: dict[str, Any], names: Sequence[str], backbone: str, image_size: int, batch_size: int, bandwidth: float
) -> None:
    """Add to each contender the images per second at which its bytes would saturate the bandwidth, and its share."""
    for name in names:
        bytes_moved = figures[name].get("inductor_bytes")
        if bytes_moved is None and "compiled" not in name:
            traffic = step_traffic(build_network(name.split()[0], backbone), image_size, frozen="frozen" in name)
            bytes_moved = traffic["bytes_per_image"] * batch_size + traffic["bytes"]
            figures[name]["operators"] = traffic["operators"]
        if bytes_moved:
            floor = batch_size * bandwidth / bytes_moved
            figures[name] |= {
                "bytes_per_step": bytes_moved,
                "floor_images_per_second": round(floor, 1),
                "share_of_floor": round(figures[name]["images_per_second"] / floor, 3),
            }
