"""The largest batch that fits and the hours of a training: efficientnet-transfer costs b3 --plan --memory 16GiB

Each figure says where it comes from: counted, predicted, measured, or given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transfer.commands.console import check_folder
from transfer.commands.costs.network import Network, find_network
from transfer.errors import BadValue, MissingData

if TYPE_CHECKING:
    from transfer.costs.speed import Speed


class Figure(NamedTuple):
    """A line of the plan; `value` is the number in `text`, in bytes, images, images per second or hours."""

    name: str
    value: float
    text: str
    source: str


def plan(
    name: str,
    *,
    image_size: int | None,
    batch_size: int | None,
    num_classes: int | None,
    precision: Any,
    device: str | None,
    threads: int | None,
    allow_user_code: bool,
    memory: str | None,
    num_images: int | None,
    epochs: int | None,
    benchmarks: Sequence[Path] | None,
    json: Path | None,
) -> None:
    """Print the plan.

    The arguments are the flags of `build_parser`, where None stands for the default.

    Raises:
        BadValue: an unknown network, no such device, or not even two images fit.
        MissingData: there is no folder for `json`, or no such file of `benchmarks`.
        DamagedFile: a file of `benchmarks` is another one.
        UserError: there is too little memory.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from transfer.environment import write_figures
    from transfer.networks.registry import get_backbone

    check_folder("json", json)
    network = find_network(name, num_classes, image_size, allow_user_code)
    size = network.image_size or get_backbone(network.backbone).resolution
    figures = plan_memory(network, size, batch_size, precision, memory)
    if num_images is not None or epochs is not None:
        if num_images is None or epochs is None:
            raise BadValue("`num_images` and `epochs` belong together: give both, or neither")
        fits = next(int(figure.value) for figure in figures if figure.name == "largest batch")
        speed, source = find_speed(network.backbone, size, fits, precision, device, threads, benchmarks)
        hours = num_images * epochs / speed.images_per_second / 3600
        figures += [
            Figure("speed", speed.images_per_second, f"{speed.images_per_second:,} images/s", source),
            Figure(
                "training",
                hours,
                f"{hours:,.2f} hours",
                f"{epochs} epochs of {num_images:,} images at that speed, without validation",
            ),
        ]
    table = Table(title=f"{name} at {size} px, {precision}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("", "", "from"):
        table.add_column(column)
    for figure in figures:
        table.add_row(figure.name, figure.text, figure.source)
    Console().print(table)
    rows = {figure.name: {"value": figure.value, "from": figure.source} for figure in figures}
    write_figures(json, {"network": name, "image_size": size, "precision": precision, "plan": rows})


def plan_memory(
    network: Network, image_size: int, batch_size: int | None, precision: Any, memory: str | None
) -> list[Figure]:
    """Return what a training step takes, and how many images fit.

    Raises:
        BadValue: not even two images fit, which BatchNorm needs.
    """
    from transfer.config.data_schema import DataConfig
    from transfer.costs.memory import largest_batch, usable_memory
    from transfer.costs.profile import profile_backbone
    from transfer.costs.units import format_bytes, parse_bytes

    if memory is not None:
        available, source = parse_bytes(memory, "memory"), "given"
    else:
        usable, of = usable_memory()
        if usable is None:
            raise MissingData("`memory`: this system does not tell how much it has; give it, as 16GiB")
        available, source = usable, "90% of this GPU's" if of == "gpu" else "half of this machine's"
    name, num_classes = network.backbone, network.num_classes
    counted = profile_backbone(name, image_size, num_classes=num_classes, head=network.head, precision=precision)
    step = counted.training
    fits = largest_batch(available, step) or 0
    if fits < 2:
        raise BadValue(
            f"{name} at {image_size} px: two images take {format_bytes(step.total(2))} (predicted, {precision}), and"
            f" there are {format_bytes(available)}: give a smaller `image_size` or network"
            + (", or `precision`=bf16-mixed" if precision == "32-true" else "")
        )
    wanted = batch_size or DataConfig().batch_size
    steps = -(-wanted // fits)
    taken = -(-wanted // steps)
    return [
        Figure("parameters", counted.num_parameters, f"{counted.num_parameters:,}", "counted"),
        Figure("multiply-adds", counted.macs, f"{counted.macs:,}", "counted"),
        Figure("memory", available, format_bytes(available), source),
        Figure("memory, fixed", step.fixed, format_bytes(step.fixed), "predicted"),
        Figure("memory, each image", step.per_image, format_bytes(step.per_image), "predicted"),
        Figure("largest batch", fits, f"{fits} images, {format_bytes(step.total(fits))}", "predicted"),
        Figure(
            f"batch of {wanted}",
            taken,
            f"{taken} images"
            + (f", {steps} times a step" if steps > 1 else "")
            + f", {format_bytes(step.total(taken))}",
            "predicted" if batch_size else "predicted; finetune's default",
        ),
    ]


def find_speed(
    name: str,
    image_size: int,
    fits: int,
    precision: Any,
    device: str | None,
    threads: int | None,
    benchmarks: Sequence[Path] | None,
) -> tuple[Speed, str]:
    """Return the training images per second, given or measured, and where they come from.

    Raises:
        BadValue: the files have no such network and size, or there is no such device.
    """
    import torch

    from transfer.costs.bare_steps import choose_device
    from transfer.costs.latency import describe_threads, limited_threads
    from transfer.costs.speed import Speed, measure, read_benchmarks

    if benchmarks:
        given = read_benchmarks(benchmarks)
        for speed in given:
            if (speed.backbone, speed.image_size) == (name, image_size):
                return speed, f"given: python -m benchmarks train on {speed.measured_on}"
        have = ", ".join(f"{speed.backbone} at {speed.image_size} px" for speed in given)
        raise BadValue(f"`benchmarks`: no {name} at {image_size} px (there: {have})")
    on_cpu = choose_device(device).type == "cpu"
    with limited_threads(threads):
        images_per_second = measure(name, image_size, fits, on_cpu, precision)
        where = describe_threads() if on_cpu else torch.cuda.get_device_name()
    return Speed(name, image_size, images_per_second, where), f"measured on {where}, {precision}"
