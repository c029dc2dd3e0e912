"""A training step on several devices with PyTorch's DistributedDataParallel, on paper.

Each device computes the gradients of its own images. As soon as a bucket of gradients is ready, an all-reduce averages
it over the devices while the backward pass goes on; what is not done when that ends is exposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from transfer.costs.links import Link

# PyTorch's defaults: dist._DEFAULT_FIRST_BUCKET_BYTES, and bucket_cap_mb of DistributedDataParallel.
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20


class Gradient(NamedTuple):
    """A parameter's gradient: its bytes, and the seconds of the backward pass after which it is ready."""

    size: int
    ready: float


@dataclass(frozen=True)
class Timeline:
    """A training step of one device without communication, in seconds.

    Attributes:
        forward: everything before the backward pass.
        backward: the backward pass.
        optimizer: everything after it.
        gradients: in the order in which they are ready.
    """

    forward: float
    backward: float
    optimizer: float
    gradients: tuple[Gradient, ...]

    @property
    def step(self) -> float:
        """Seconds of the whole step."""
        return self.forward + self.backward + self.optimizer

    def scaled(self, factor: float) -> Timeline:
        """Return the same step on a device that takes this many times as long."""
        gradients = tuple(Gradient(size, factor * ready) for size, ready in self.gradients)
        return Timeline(factor * self.forward, factor * self.backward, factor * self.optimizer, gradients)

    def accumulated(self, batches: int) -> Timeline:
        """Return a step of several batches, of which the last one's backward pass sends the gradients."""
        return replace(self, forward=self.forward + (batches - 1) * (self.forward + self.backward))


def fill_buckets(gradients: Iterable[Gradient]) -> list[Gradient]:
    """Return the buckets, each of which is ready with its last gradient; all gradients are of one type.

    DistributedDataParallel fills them in the order in which the first backward pass gave the gradients. A bucket is
    full once it reaches its size, so that it may be larger.
    """
    buckets: list[Gradient] = []
    filled, ready, limit = 0, 0.0, FIRST_BUCKET
    for gradient in gradients:
        filled, ready = filled + gradient.size, max(ready, gradient.ready)
        if filled >= limit:
            buckets.append(Gradient(filled, ready))
            filled, limit = 0, BUCKET
    return [*buckets, Gradient(filled, ready)] if filled else buckets


@dataclass(frozen=True)
class Cluster:
    """Machines with the same number of devices each.

    Attributes:
        devices: of each machine.
        nodes: number of machines.
        within: what connects the devices of a machine.
        between: what connects the machines.
    """

    devices: int
    nodes: int
    within: Link
    between: Link

    @property
    def size(self) -> int:
        """Number of all devices."""
        return self.devices * self.nodes

    @property
    def rings(self) -> tuple[tuple[int, Link], tuple[int, Link]]:
        """How many send around a ring, and over what: the devices of a machine, and the machines."""
        return (self.devices, self.within), (self.nodes, self.between)

    def sent_bytes(self, size: int) -> tuple[float, float]:
        """Return what an all-reduce of so many bytes sends: each device to another one, each machine to another one.

        The devices of a machine each add up their share, the machines average it, and the devices spread it.
        """
        return _ring_bytes(self.devices, size), _ring_bytes(self.nodes, size)

    def all_reduce_seconds(self, size: int) -> float:
        """Return how long an all-reduce takes, with one step after the other: NCCL overlaps them where it can."""
        return sum(
            _ring_bytes(number, size) / link.bandwidth + 2 * (number - 1) * link.latency for number, link in self.rings
        )

    def broadcast_seconds(self, size: int) -> float:
        """Return how long one device takes to send all others so many bytes along a chain, cut into pieces."""
        return sum(size / link.bandwidth + (number - 1) * link.latency for number, link in self.rings if number > 1)

    def gather_seconds(self, size: int) -> float:
        """Return how long it takes until each device has so many bytes of each other one, around a ring."""
        within, between = (self.devices - 1) * size, (self.nodes - 1) * self.devices * size
        return (
            within / self.within.bandwidth
            + between / self.between.bandwidth
            + (self.devices - 1) * self.within.latency
            + (self.nodes - 1) * self.between.latency
        )


def _ring_bytes(number: int, size: int) -> float:
    """Return what each of a ring sends in an all-reduce: its share to be added up, and sums to be spread."""
    return 2 * (number - 1) / number * size


def batch_norm_channels(network: nn.Module) -> list[int]:
    """Return the channels of each BatchNorm layer."""
    return [module.num_features for module in network.modules() if isinstance(module, _BatchNorm)]


def batch_norm_seconds(channels: Iterable[int], cluster: Cluster) -> float:
    """Return what `sync_batchnorm` adds to a forward and a backward pass: nothing goes on while its messages travel.

    SyncBatchNorm gathers each layer's means, deviations and count in the forward pass, and adds up two gradients of
    each channel in the backward pass, all in float32.

    Args:
        channels: of each layer.
        cluster: the devices.
    """
    return sum(cluster.gather_seconds(4 * (2 * n + 1)) + cluster.all_reduce_seconds(4 * 2 * n) for n in channels)


def simulate_backward(
    backward: float, buckets: Sequence[Gradient], seconds: Callable[[int], float], share: float = 0.0
) -> float:
    """Return how long a backward pass takes with the all-reduces of its buckets, which run one after another.

    Args:
        backward: seconds of the backward pass alone.
        buckets: in the order in which they are ready.
        seconds: returns how long an all-reduce of so many bytes takes.
        share: of the device that an all-reduce keeps from computing: 0 where others do the work, 1 where the processor
            that computes does all of it.
    """
    clock = computed = 0.0
    for size, ready in buckets:
        waiting = max(ready - computed, 0.0)
        duration = seconds(size)
        clock += waiting + duration
        computed = min(computed + waiting + duration * (1 - share), backward)
    return clock + backward - computed


@dataclass(frozen=True)
class Step:
    """A training step of several devices, in seconds.

    Attributes:
        seconds: the whole step.
        communication: all-reduces and broadcast, were nothing else going on.
        exposed: by how much they make the step longer.
        efficiency: the step of one device relative to it.
    """

    seconds: float
    communication: float
    exposed: float
    efficiency: float


def simulate_step(
    timeline: Timeline, all_reduce: Callable[[int], float], broadcast: float = 0.0, share: float = 0.0
) -> Step:
    """Return the step of devices that each compute a timeline.

    Args:
        timeline: the step of one of them.
        all_reduce: returns the seconds of an all-reduce of so many bytes.
        broadcast: seconds in which the first device sends the others BatchNorm's statistics, before the forward pass.
        share: see `simulate_backward`.
    """
    buckets = fill_buckets(timeline.gradients)
    backward = simulate_backward(timeline.backward, buckets, all_reduce, share)
    exposed = max(broadcast + backward - timeline.backward, 0.0)  # below 0 by rounding alone
    seconds = timeline.step + exposed
    communication = broadcast + sum(all_reduce(bucket.size) for bucket in buckets)
    return Step(seconds, communication, exposed, timeline.step / seconds)
