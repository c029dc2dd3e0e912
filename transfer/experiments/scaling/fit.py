"""How far each axis of scaling goes within limits: the networks that `scale fit` compares."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from transfer.costs.limits import Axis, Fit, largest_fit
from transfer.networks.scaling import Scale

if TYPE_CHECKING:
    from transfer.costs.latency import Latency
    from transfer.costs.network_costs import Costs


@dataclass(frozen=True)
class Answer:
    """The largest network of an axis, or, where none fits, the smallest, which does not fit either.

    Attributes:
        axis: name of the axis.
        fit: how far the axis goes.
        name: name of the network.
        too_large: name of the next larger network, which breaks the limits of `fit`.
        factors: coefficients of the network.
        image_size: side of its images in pixels.
        costs: its costs by the names of `transfer.costs.limits.QUANTITIES`, without latency.
        blocks, channels: blocks and output channels of each stage; empty for a network that a function builds.
        latency: measured latency of one image; None unless it was measured.
        peak: measured peak of memory in bytes; None unless it was measured, or where it exceeds what there is.
    """

    axis: str
    fit: Fit
    name: str
    too_large: str | None
    factors: Scale
    image_size: int
    costs: dict[str, float]
    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    latency: Latency | None = None
    peak: int | None = None


def find_all(axes: Sequence[Axis], costs: Costs, limits: Mapping[str, float]) -> tuple[Answer, list[Answer]]:
    """Return the baseline's own costs and how far each axis goes, searched in parallel where that is possible."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import torch

    gc.freeze()  # torch's objects stay, so no collection need look at them
    own, search = describe(axes[0], Fit(axes[0].origin, None, ()), costs), partial(find, costs=costs, limits=limits)
    if "latency_ms" in limits or sys.platform != "linux" or torch.accelerator.is_available():
        return own, [search(axis) for axis in axes]  # autograd cannot be forked where there is a GPU
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(axes)), get_context("fork")) as pool:
        return own, list(pool.map(search, axes))


def find(axis: Axis, costs: Costs, limits: Mapping[str, float]) -> Answer:
    """Return how far an axis goes."""
    found = largest_fit(
        axis,
        lambda value, quantity: costs.of(axis.at(costs.baseline, value), quantity),
        lambda value: costs.growth(axis.at(costs.baseline, value)),
        limits,
        costs.counted,
    )
    return describe(axis, found, costs)


def describe(axis: Axis, found: Fit, costs: Costs) -> Answer:
    """Return the network at which a search ended."""
    from transfer.networks.rows import Variant

    network = axis.at(costs.baseline, axis.values[0] if found.value is None else found.value)
    stages = network.stages if isinstance(network, Variant) else ()
    return Answer(
        axis=axis.name,
        fit=found,
        name=network.name,
        too_large=None if found.too_large is None else axis.at(costs.baseline, found.too_large).name,
        factors=network.scale or Scale(),
        image_size=costs.image_size(network),
        costs={name: costs.of(network, name) for name in ("num_parameters", "macs", "memory")},
        blocks=tuple(row.repeats for row in stages),
        channels=tuple(row.out_channels for row in stages),
    )


def measured(answer: Answer, costs: Costs) -> Answer:
    """Return an answer with the latency and memory that are measured on this machine."""
    from transfer.networks.registry import get_backbone

    network = get_backbone(answer.name)
    return replace(answer, latency=costs.latency(network), peak=costs.peak(network))


def failures(answers: Sequence[Answer]) -> list[str]:
    """Return a line for each limit that the smallest network of an axis breaks."""
    return [
        f"{answer.name}, the smallest by {answer.axis}: {each}"
        for answer in answers
        if answer.fit.value is None
        for each in answer.fit.broken
    ]
