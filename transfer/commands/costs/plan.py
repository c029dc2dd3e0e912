"""The largest batch that fits and the hours of a training: efficientnet-transfer costs b3 --plan --memory 16GiB

Each figure says where it comes from: counted, predicted, measured, or given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transfer.commands.console import check_folder
from transfer.commands.costs.devices import find_cluster, plan_devices
from transfer.commands.costs.figure import Figure
from transfer.commands.costs.network import Network, find_network, say_next_of
from transfer.commands.tables import print_table
from transfer.errors import BadValue, MissingData

if TYPE_CHECKING:
    from transfer.costs.data_parallel import Cluster, Timeline


class Batch(NamedTuple):
    """The images of a step of one device: `taken` at once, `times` times; at most `fits` at once."""

    fits: int
    taken: int
    times: int


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
    images_per_second: float | None,
    devices: int | None,
    nodes: int | None,
    bandwidth: Sequence[str] | None,
    sync_batchnorm: bool,
    json: Path | None,
) -> None:
    """Print the plan.

    The arguments are the flags of `build_parser`, where None stands for the default.

    Raises:
        BadValue: an unknown network, no such device or link, flags that do not go together, or not even two images fit.
        MissingData: there is no folder for `json`, or no such file of `benchmarks`.
        DamagedFile: a file of `benchmarks` is another one.
        UserError: there is too little memory.
    """
    from transfer.costs.bare_steps import choose_device
    from transfer.costs.speed import automatic_precision
    from transfer.environment import write_figures
    from transfer.networks.registry import get_backbone

    check_folder("json", json)
    speeds = {"benchmarks": benchmarks, "images_per_second": images_per_second}
    check_together(
        num_images,
        epochs,
        devices or nodes,
        speeds=speeds,
        measured={"device": device, "threads": threads},
        linked={"bandwidth": bandwidth, "sync_batchnorm": sync_batchnorm},
    )
    cluster = find_cluster(devices or 1, nodes or 1, bandwidth) if devices or nodes else None
    network = find_network(name, num_classes, image_size, allow_user_code)
    size = network.image_size or get_backbone(network.backbone).resolution
    precision = precision or automatic_precision(choose_device(device).type == "cuda", size)
    figures, batch = plan_memory(network, size, batch_size, precision, memory, cluster)
    if num_images is not None or cluster is not None:
        given = given_speed(network.backbone, size, precision, benchmarks, images_per_second)
        figures += plan_speed(network, size, batch, precision, device, threads, given, cluster, sync_batchnorm)
    if num_images is not None and epochs is not None:
        figures.append(training_hours(num_images, epochs, images_per_second=figures[-1].value))
    show(f"{name} at {size} px, {precision}", figures)
    rows = {figure.name: {"value": figure.value, "from": figure.source} for figure in figures}
    write_figures(json, {"network": name, "image_size": size, "precision": precision, "plan": rows})
    say_next_of(name)


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print the figures as a table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("", "", "from"):
        table.add_column(column)
    for figure in figures:
        table.add_row(figure.name, figure.text, figure.source)
    print_table(table)


def check_together(
    num_images: int | None,
    epochs: int | None,
    devices: int | None,
    *,
    speeds: Mapping[str, Any],
    measured: Mapping[str, Any],
    linked: Mapping[str, Any],
) -> None:
    """Check that every flag that is given has an effect.

    Args:
        num_images, epochs, devices: what a speed is for.
        speeds: flags that give a speed, of which one is enough.
        measured: flags of a measurement.
        linked: flags of several devices.

    Raises:
        BadValue: one has none.
    """

    def given(flags: Mapping[str, Any]) -> list[str]:
        return [name for name, value in flags.items() if value]

    if (num_images is None) != (epochs is None):
        raise BadValue("`num_images` and `epochs` belong together: give both, or neither")
    if devices is None and (name := next(iter(given(linked)), None)):
        raise BadValue(f"`{name}` is of several devices: give `devices` or `nodes`, too")
    if num_images is None and devices is None and (name := next(iter(given({**speeds, **measured})), None)):
        raise BadValue(f"`{name}` is of a speed, and none is asked for: give `num_images` and `epochs`, or `devices`")
    if len(found := given(speeds)) > 1:
        raise BadValue(f"`{found[0]}` and `{found[1]}` both give the speed: leave out one")
    if devices is None and found and (name := next(iter(given(measured)), None)):
        raise BadValue(f"`{name}` is of a measurement, and `{found[0]}` gives the speed: leave out one")


def plan_memory(
    network: Network,
    image_size: int,
    batch_size: int | None,
    precision: Any,
    memory: str | None,
    cluster: Cluster | None,
) -> tuple[list[Figure], Batch]:
    """Return what a training step takes, and the batch of one device.

    DistributedDataParallel holds the gradients a second time, in its buckets.

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
    copied = 4 * counted.num_parameters if cluster is not None and cluster.size > 1 else 0
    fits = largest_batch(available - copied, step) or 0
    if fits < 2:
        raise BadValue(
            f"{name} at {image_size} px: two images take {format_bytes(copied + step.total(2))} (predicted,"
            f" {precision}), and there are {format_bytes(available)}: give a smaller `image_size` or network"
            + (", or `precision`=bf16-mixed" if precision == "32-true" else "")
        )
    wanted = batch_size or DataConfig().batch_size
    steps = -(-wanted // fits)
    taken = -(-wanted // steps)
    figures = [
        Figure("parameters", counted.num_parameters, f"{counted.num_parameters:,}", "counted"),
        Figure("multiply-adds", counted.macs, f"{counted.macs:,}", "counted"),
        Figure("memory", available, format_bytes(available), source),
        Figure("memory, fixed", copied + step.fixed, format_bytes(copied + step.fixed), "predicted"),
        Figure("memory, each image", step.per_image, format_bytes(step.per_image), "predicted"),
        Figure("largest batch", fits, f"{fits} images, {format_bytes(copied + step.total(fits))}", "predicted"),
        Figure(
            f"batch of {wanted}",
            taken,
            f"{taken} images"
            + (f", {steps} times a step" if steps > 1 else "")
            + f", {format_bytes(copied + step.total(taken))}",
            "predicted" if batch_size else "predicted; finetune's default",
        ),
    ]
    return figures, Batch(fits, taken, steps)


def given_speed(
    name: str, image_size: int, precision: Any, benchmarks: Sequence[Path] | None, images_per_second: float | None
) -> Figure | None:
    """Return the training images per second of one device that the user gives; None: they have to be measured.

    Raises:
        BadValue: the files have no such network and size.
    """
    from transfer.costs.speed import read_benchmarks

    if images_per_second is not None:
        return Figure("speed", images_per_second, f"{images_per_second:,} images/s", "given")
    if not benchmarks:
        return None
    given = read_benchmarks(benchmarks, precision)
    for speed in given:
        if (speed.backbone, speed.image_size) == (name, image_size):
            source = f"given: python -m benchmarks train on {speed.measured_on}, {precision}"
            return Figure("speed", speed.images_per_second, f"{speed.images_per_second:,} images/s", source)
    have = ", ".join(f"{speed.backbone} at {speed.image_size} px" for speed in given)
    raise BadValue(f"`benchmarks`: no {name} at {image_size} px (there: {have})")


def plan_speed(
    network: Network,
    image_size: int,
    batch: Batch,
    precision: Any,
    device: str | None,
    threads: int | None,
    given: Figure | None,
    cluster: Cluster | None,
    sync_batchnorm: bool,
) -> list[Figure]:
    """Return the images per second of one device, and the step of all if there are several; images per second last."""
    if given is not None and cluster is None:
        return [given]
    timeline, measured = measure_speed(network, image_size, batch, precision, device, threads)
    speed = given or measured
    if cluster is None:
        return [speed]
    built = network.builder()()
    step_figures = plan_devices(built, cluster, timeline, speed.value, batch.taken, batch.times, sync_batchnorm)
    return [speed, *step_figures]


def measure_speed(
    network: Network, image_size: int, batch: Batch, precision: Any, device: str | None, threads: int | None
) -> tuple[Timeline, Figure]:
    """Measure a training step of up to 8 images, on a GPU up to 64, and the images per second that follow from it.

    Raises:
        BadValue: there is no such device.
        UserError: there is too little memory.
    """
    import torch

    from transfer.costs.bare_steps import choose_device
    from transfer.costs.latency import describe_threads, limited_threads
    from transfer.costs.step_times import measure_timeline

    place = choose_device(device)
    number = min(batch.fits, 8 if place.type == "cpu" else 64)
    with limited_threads(threads):
        timeline = measure_timeline(network.builder()(), image_size, number, place, precision=precision)
        where = describe_threads() if place.type == "cpu" else torch.cuda.get_device_name()
    speed = round(number / timeline.step, 2)
    return timeline, Figure("speed", speed, f"{speed:,} images/s", f"measured on {where}, {precision}")


def training_hours(num_images: int, epochs: int, images_per_second: float) -> Figure:
    """Return how long so many epochs take."""
    hours = num_images * epochs / images_per_second / 3600
    source = f"{epochs} epochs of {num_images:,} images at that speed, without validation"
    return Figure("training", hours, f"{hours:,.2f} hours", source)
