"""The predicted step of several processes against a real one: python -m benchmarks ddp

DistributedDataParallel with gloo on this machine's processor. The processes share the cores, so a step without
communication is measured in all of them at the same time, up to the end of the slowest. In turns with it, so are the
all-reduces of the network's buckets, with nothing beside them: the bandwidth and the latency of the prediction, and how
much of the cores they take from the backward pass. The prediction is `transfer.costs.data_parallel`'s, as in
`costs --plan --devices`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.ratios import ratio
from transfer.errors import check_count

if TYPE_CHECKING:
    from transfer.costs.data_parallel import Cluster, Timeline

NETWORKS = ("lite0", "resnet50")
_SMALL = 4096  # bytes of an all-reduce that is all latency
_WARM_UP = 5
# Of the predictions of the rounds, in seconds but for bandwidth (bytes per second), share and efficiency.
_MEDIANS = ("bandwidth", "latency", "share_of_cores", "step_alone", "communication", "exposed", "step", "efficiency")


class Case(NamedTuple):
    """What is measured."""

    network: str
    processes: int
    threads: int
    image_size: int
    batch_size: int
    steps: int
    rounds: int


class Round(NamedTuple):
    """What one process measured in one round, in seconds.

    Attributes:
        alone: its steps without communication.
        waits: after each of them, for the slowest process.
        all_reduces: of `_SMALL` and of each bucket.
        waited, computed: of all these all-reduces: on the clock, and of the processor.
        together: a step of DistributedDataParallel.
    """

    alone: list[Timeline]
    waits: list[float]
    all_reduces: list[float]
    waited: float
    computed: float
    together: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_ddp`."""
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, metavar="NAME", help=f"default: {' '.join(NETWORKS)}"
    )
    parser.add_argument("--processes", nargs="+", type=int, default=(2, 4), metavar="N", help="default: 2 4")
    parser.add_argument("--image_size", type=int, default=32, metavar="PX", help="default: 32")
    parser.add_argument("--batch_size", type=int, default=4, metavar="N", help="of each process; default: 4")
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="per round; default: 2")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="default: 8")


def benchmark_ddp(
    networks: Sequence[str], processes: Sequence[int], image_size: int, batch_size: int, steps: int, rounds: int
) -> dict[str, Any]:
    """Return predicted and measured seconds of a step of each network with each number of processes.

    Args:
        networks: names of the networks.
        processes: numbers of processes, at least 2.
        image_size: side of the images, in pixels.
        batch_size: images of each process, at least 2.
        steps: steps of a round.
        rounds: number of rounds, each of which measures everything.

    Raises:
        BadValue: a number is too small, or a network is unknown.
    """
    for name, value, least in (("steps", steps, 1), ("rounds", rounds, 1), ("batch_size", batch_size, 2)):
        check_count(name, value, least)
    for number in processes:
        check_count("processes", number, 2)
    from transfer.environment import environment

    cores = environment()["hardware"]["cores"]
    rows = []
    for network in networks:
        for number in processes:
            case = Case(network, number, max(1, cores // number), image_size, batch_size, steps, rounds)
            rows.append(compare(case, measure(case), cores))
            print(rows[-1], file=sys.stderr, flush=True)
    return {
        "cores": cores,
        "cases": rows,
        "largest_error_percent": round(max(abs(100 * (row["ratio"] - 1)) for row in rows), 1),
    }


def measure(case: Case) -> list[list[Round]]:
    """Return the rounds of each process.

    Raises:
        BadValue: the network is unknown.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(case.processes, spawn) as pool:
            return list(pool.map(partial(measure_process, case, Path(folder, "meeting")), range(case.processes)))


def measure_process(case: Case, meeting: Path, rank: int) -> list[Round]:
    """Return the rounds of one process, which meets the others in a file."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from transfer.commands.process import keep_freed_memory
    from transfer.costs.bare_steps import placed, random_batch, training_step
    from transfer.costs.data_parallel import fill_buckets
    from transfer.costs.step_times import time_steps
    from transfer.weights.build import build_classifier

    keep_freed_memory()
    torch.set_num_threads(case.threads)
    distributed.init_process_group(
        "gloo", f"file://{meeting}", rank=rank, world_size=case.processes, timeout=timedelta(minutes=2)
    )
    device = torch.device("cpu")
    network = build_classifier(case.network, 10, load_weights=False)
    step = training_step(network, device)
    batch = random_batch(case.image_size, case.batch_size, device)
    own_copy = placed(build_classifier(case.network, 10, load_weights=False), device, torch.channels_last)
    together = training_step(DistributedDataParallel(own_copy), device)
    (timeline, *_) = time_steps(network, step, batch, device, _WARM_UP)
    for _ in range(_WARM_UP):
        together(batch)
    sizes = [_SMALL, *(bucket.size for bucket in fill_buckets(timeline.gradients))]
    rounds = []
    for _ in range(case.rounds):
        alone, waits = [], []
        for _ in range(case.steps):
            distributed.barrier()
            alone += time_steps(network, step, batch, device, 1)
            started = time.perf_counter()
            distributed.barrier()
            waits.append(time.perf_counter() - started)
        started, computed = time.perf_counter(), time.process_time()
        all_reduces = time_all_reduces(sizes, case.steps)
        waited, computed = time.perf_counter() - started, time.process_time() - computed
        distributed.barrier()
        started = time.perf_counter()
        for _ in range(case.steps):
            together(batch)
        seconds = (time.perf_counter() - started) / case.steps
        rounds.append(Round(alone, waits, all_reduces, waited, computed, seconds))
    distributed.destroy_process_group()
    return rounds


def time_all_reduces(sizes: Sequence[int], number: int) -> list[float]:
    """Return the median seconds of an all-reduce of each number of bytes, with the copies that DDP makes."""
    import torch
    from torch import distributed

    seconds: list[list[float]] = [[] for _ in sizes]
    tensors = [(torch.ones(size // 4), torch.empty(size // 4)) for size in sizes]
    for _ in range(number):
        for (gradients, bucket), times in zip(tensors, seconds, strict=True):
            started = time.perf_counter()
            torch.mul(gradients, 1 / distributed.get_world_size(), out=bucket)
            distributed.all_reduce(bucket)
            gradients.copy_(bucket)
            times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in seconds]


def compare(case: Case, measured: Sequence[Sequence[Round]], cores: int) -> dict[str, Any]:
    """Return predicted and measured steps: medians over the rounds, each of which is predicted from itself."""
    from transfer.weights.build import build_classifier

    buffers = sum(buffer.nbytes for buffer in build_classifier(case.network, 10, load_weights=False).buffers())
    rounds = [predict(case, each, buffers, cores) for each in zip(*measured, strict=True)]
    steps = [statistics.median(process.together for process in each) for each in zip(*measured, strict=True)]
    return {
        **case._asdict(),
        "gradient_bytes": rounds[0]["gradient_bytes"],
        "buckets": rounds[0]["buckets"],
        "buffer_bytes": buffers,
        "medians": {name: statistics.median(each[name] for each in rounds) for name in _MEDIANS},
        "measured_seconds": statistics.median(steps),
        "measured_range": [min(steps), max(steps)],
        **ratio((each["step"] for each in rounds), steps),
    }


def predict(case: Case, processes: Sequence[Round], buffers: int, cores: int) -> dict[str, Any]:
    """Return the prediction that follows from a round of each process, and what it follows from."""
    from transfer.costs.data_parallel import fill_buckets, simulate_step
    from transfer.costs.step_times import median_timeline

    alone = median_timeline([step for process in processes for step in process.alone])
    with_wait = statistics.median(
        step.step + wait for process in processes for step, wait in zip(process.alone, process.waits, strict=True)
    )
    timeline = replace(alone, optimizer=alone.optimizer + with_wait - alone.step)
    buckets = [bucket.size for bucket in fill_buckets(timeline.gradients)]
    cluster = cluster_of(case.processes, buckets, [process.all_reduces for process in processes])
    busy = min(cores, case.processes * case.threads)
    taken = sum(process.computed for process in processes) / statistics.mean(process.waited for process in processes)
    share = min(max((taken - (cores - busy)) / busy, 0.0), 1.0)
    step = simulate_step(timeline, cluster.all_reduce_seconds, cluster.broadcast_seconds(buffers), share)
    return {
        "gradient_bytes": sum(buckets),
        "buckets": buckets,
        "bandwidth": cluster.within.bandwidth,
        "latency": cluster.within.latency,
        "share_of_cores": share,
        "step_alone": timeline.step,
        "communication": step.communication,
        "exposed": step.exposed,
        "step": step.seconds,
        "efficiency": step.efficiency,
    }


def cluster_of(processes: int, sizes: Sequence[int], seconds: Sequence[Sequence[float]]) -> Cluster:
    """Return the processes as devices of one machine, with the latency and the bandwidth of measured all-reduces.

    Args:
        processes: number of processes.
        sizes: bytes of the buckets.
        seconds: of all-reduces of `_SMALL` bytes and of each bucket, several times.
    """
    from transfer.costs.data_parallel import Cluster
    from transfer.costs.links import Link

    small, *buckets = (statistics.median(times) for times in zip(*seconds, strict=True))
    small = min(small, min(buckets) / 2)  # where small buckets and other processes blur the difference
    without = Cluster(processes, 1, Link(1.0, 0.0, ""), Link(1.0, 0.0, ""))
    sent = sum(without.sent_bytes(size)[0] for size in sizes)
    link = Link(sent / sum(time - small for time in buckets), small / (2 * (processes - 1)), "measured")
    return Cluster(processes, 1, link, link)
