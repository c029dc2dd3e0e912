"""The step of several devices: efficientnet-transfer costs b3 --plan --devices 8 --nodes 4"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transfer.commands.costs.figure import Figure
from transfer.errors import BadValue

if TYPE_CHECKING:
    from torch import nn

    from transfer.costs.data_parallel import Cluster, Timeline


def find_cluster(devices: int, nodes: int, bandwidth: Sequence[str] | None) -> Cluster:
    """Return the machines and what connects them.

    Args:
        devices: of each machine.
        nodes: number of machines.
        bandwidth: of the devices of a machine if there are several, then of the machines if there are several; None
            takes the defaults.

    Raises:
        BadValue: there are more or fewer values than that, or one is unknown.
    """
    from transfer.costs.data_parallel import Cluster
    from transfer.costs.links import DEFAULTS, find_link

    there = (devices > 1, nodes > 1)
    texts = list(DEFAULTS)
    if bandwidth is not None:
        if len(bandwidth) != sum(there):
            raise BadValue(
                f"`bandwidth`: {len(bandwidth)} values (allowed: {sum(there)} for {devices} devices of {nodes}"
                " machines: between the devices, then between the machines)"
            )
        given = iter(bandwidth)
        texts = [next(given) if exists else default for exists, default in zip(there, DEFAULTS, strict=True)]
    within, between = (find_link(text, between_machines=index > 0) for index, text in enumerate(texts))
    return Cluster(devices, nodes, within, between)


def plan_devices(
    network: nn.Module, cluster: Cluster, timeline: Timeline, speed: float, taken: int, times: int, sync: bool
) -> list[Figure]:
    """Return the step of all devices; the last figure is their images per second.

    Args:
        network: the network.
        cluster: the devices.
        timeline: a step that was measured here; its shape is taken, and the duration of `speed`.
        speed: images per second of one device.
        taken, times: images of a device at once, and how many times in a step.
        sync: whether BatchNorm's statistics are over the batches of all devices.
    """
    from transfer.costs.data_parallel import batch_norm_channels, batch_norm_seconds, simulate_step

    shape = timeline.accumulated(times)
    step = shape.scaled(times * taken / speed / shape.step)
    buffers = sum(buffer.nbytes for buffer in network.buffers())
    simulated = simulate_step(step, cluster.all_reduce_seconds, cluster.broadcast_seconds(buffers))
    seconds = simulated.seconds
    last = ", of its last batch" if times > 1 else ""
    figures = [
        *count_bytes(cluster, timeline, buffers),
        _seconds("step of one device", step.step, f"{times * taken} images at that speed"),
        _seconds("backward pass", step.backward, f"measured here, as a share of the step{last}"),
        _seconds("communication", simulated.communication, "simulated: broadcast and all-reduces by themselves"),
        _seconds("exposed", simulated.exposed, "simulated: what a backward pass at full speed does not hide"),
    ]
    if sync:
        channels = batch_norm_channels(network)
        added = times * batch_norm_seconds(channels, cluster)
        seconds += added
        messages = f"simulated: {2 * times * len(channels)} messages, none beside the computation"
        figures.append(_seconds("sync_batchnorm adds", added, messages))
    efficiency, rate = step.step / seconds, cluster.size * times * taken / seconds
    return [
        *figures,
        _seconds("step", seconds, "simulated"),
        Figure("efficiency", efficiency, f"{efficiency:.1%}", "simulated: the step of one device in that of all"),
        Figure("speed of all devices", rate, f"{rate:,.1f} images/s", "simulated"),
    ]


def count_bytes(cluster: Cluster, timeline: Timeline, buffers: int) -> list[Figure]:
    """Return the devices, their connections, and the bytes that they exchange in a step."""
    from transfer.costs.data_parallel import fill_buckets
    from transfer.costs.units import format_bytes

    buckets = fill_buckets(timeline.gradients)
    gradients = sum(bucket.size for bucket in buckets)
    largest = max((bucket.size for bucket in buckets), default=0)
    device, machine = cluster.sent_bytes(gradients)
    figures = [
        Figure("devices", cluster.size, f"{cluster.nodes} machines with {cluster.devices} each", "given"),
        Figure("gradients", gradients, format_bytes(gradients), f"counted, of {len(timeline.gradients)} parameters"),
        Figure(
            "buckets",
            len(buckets),
            f"{len(buckets)}, the largest of {format_bytes(largest)}",
            "counted: PyTorch's 25 MiB, the first 1 MiB, in the order of the backward pass",
        ),
    ]
    for one, number, link, sent in (
        ("device", cluster.devices, cluster.within, device),
        ("machine", cluster.nodes, cluster.between, machine),
    ):
        if number > 1:
            figures += [
                Figure(f"between {one}s", link.bandwidth, f"{link.bandwidth / 1e9:.4g} GB/s", link.source),
                Figure(f"a {one} sends", sent, format_bytes(sent), "counted: a ring, 2 (n - 1) / n of the gradients"),
            ]
    statistics = "counted: broadcast by the first device before the forward pass"
    return [*figures, Figure("BatchNorm's statistics", buffers, format_bytes(buffers), statistics)]


def _seconds(name: str, value: float, source: str) -> Figure:
    return Figure(name, value, f"{1e3 * value:,.2f} ms", source)
