"""What a network takes: efficientnet-transfer costs b3, or --compare b0,b4,resnet50

Parameters, multiply-adds and memory are counted on a network without weights; latency is measured on this machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transfer.commands.console import add_allow_user_code, check_folder, exit_status
from transfer.commands.costs.network import Network, find_network, say_next_of
from transfer.commands.tables import print_table
from transfer.config.screens import add_help
from transfer.files import expanded

if TYPE_CHECKING:
    from rich.table import Table
    from torch import device as Device

    from transfer.costs.latency import Latency
    from transfer.costs.profile import Profile

_EPILOG = """\
A network is a backbone with a linear classifier: b3, scaled (b0@phi=1.5), or the import path of a function of your own;
or the folder of a run, whose head, classes and image size it has.

Memory is what is in use at the peak: on a GPU, what PyTorch has allocated. On the processor a command keeps freed
blocks for later, so that a training process is larger than that (benchmarks/memory_prediction_cpu.json)."""


_OF_A_PLAN = (
    *("memory", "num_images", "epochs", "benchmarks", "images_per_second"),
    *("devices", "nodes", "bandwidth", "sync_batchnorm"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = build_parser()
    arguments = vars(parser.parse_args(argv))
    network, compared, planned = arguments.pop("network"), arguments.pop("compare"), arguments.pop("plan")
    if (network is None) == (compared is None):
        parser.error("give one network, or --compare with several")
    plan_only = {name: arguments.pop(name) for name in _OF_A_PLAN}
    if planned:
        if compared is not None:
            parser.error("--plan is of one network")
        for name in ("runs", "measure_memory"):
            if arguments.pop(name):
                parser.error(f"--{name}: a plan has none")
        return exit_status(lambda: import_command("plan").plan(network, **arguments, **plan_only), build_parser)
    if given := [name for name, value in plan_only.items() if value]:
        parser.error(f"--{given[0]} belongs to --plan")
    arguments["precision"] = arguments["precision"] or "32-true"
    if compared is not None:
        if arguments.pop("measure_memory"):
            parser.error("--measure_memory is of one network")
        names = re.split(r",(?![a-z]+=)", compared)
        return exit_status(lambda: import_command("compare").compare(names, **arguments), build_parser)
    return exit_status(lambda: profile(network, **arguments), build_parser)


def import_command(name: str) -> ModuleType:
    """Import one of the modules beside this one."""
    return importlib.import_module(f"transfer.commands.costs.{name}")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer costs`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer costs",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("network", nargs="?", metavar="NETWORK", help="a backbone, or the folder of a run")
    parser.add_argument("--compare", metavar="A,B,...", help="several, against the first")
    parser.add_argument("--image_size", type=positive, metavar="PX", help="default: the network's own")
    batch_size = "images; default: 8, or 64 for a plan"
    parser.add_argument(
        "--data.batch_size", "--batch_size", dest="batch_size", type=positive, metavar="N", help=batch_size
    )
    parser.add_argument("--num_classes", type=positive, metavar="N", help="default: 1000, or the run's")
    parser.add_argument(
        "--trainer.precision",
        "--precision",
        dest="precision",
        choices=("32-true", "bf16-mixed"),
        help="default: 32-true, or for a plan what finetune trains in",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the processor; default: PyTorch's")
    parser.add_argument("--runs", type=positive, metavar="N", help="timed; default: 20, as in the paper's Table 4")
    parser.add_argument("--measure_memory", action="store_true", help="too, in processes of their own")
    add_allow_user_code(parser)
    parser.add_argument("--json", type=expanded, metavar="FILE", help="write the figures there too")
    add_plan_options(parser.add_argument_group("a plan"))
    add_help(parser)
    return parser


def add_plan_options(planning: argparse._ArgumentGroup) -> None:
    """Add what belongs to `--plan`."""
    planning.add_argument("--plan", action="store_true", help="largest batch, and hours of training")
    planning.add_argument("--memory", metavar="SIZE", help="of the device, as 16GiB; default: what this machine has")
    planning.add_argument("--num_images", type=positive, metavar="N", help="of the training split")
    planning.add_argument("--epochs", type=positive, metavar="N")
    planning.add_argument(
        "--benchmarks",
        nargs="+",
        type=expanded,
        metavar="FILE",
        help="of `python -m benchmarks train`; default: measured",
    )
    planning.add_argument("--images_per_second", type=rate, metavar="X", help="of training on one device")
    planning.add_argument(
        "--trainer.devices", "--devices", dest="devices", type=positive, metavar="N", help="of each machine"
    )
    planning.add_argument(
        "--trainer.num_nodes", "--nodes", dest="nodes", type=positive, metavar="N", help="number of machines"
    )
    planning.add_argument(
        "--bandwidth",
        nargs="+",
        metavar="LINK",
        help="between the devices of a machine, then between machines: nvlink2 to 5, pcie3 to 5, ethernet10, 25 or 100,"
        " infiniband-edr, -hdr or -ndr, or bytes per second as 20GB; default: pcie4 and ethernet25",
    )
    planning.add_argument(
        "--trainer.sync_batchnorm",
        "--sync_batchnorm",
        dest="sync_batchnorm",
        action="store_true",
        help="statistics over the batches of all devices",
    )


def positive(text: str) -> int:
    """Parse a whole number of at least 1 that fits into 32 bits, for argparse."""
    number = int(text) if text.strip().isdecimal() else 0
    if not 1 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} (allowed: whole numbers from 1 to {2**31 - 1})")
    return number


def rate(text: str) -> float:
    """Parse a finite number above 0, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} (allowed: numbers above 0)")
    return number


def profile(
    name: str,
    *,
    image_size: int | None,
    batch_size: int | None,
    num_classes: int | None,
    precision: Any,
    device: str | None,
    threads: int | None,
    runs: int | None,
    measure_memory: bool,
    allow_user_code: bool,
    json: Path | None,
) -> None:
    """Print what one network takes, part by part.

    Raises:
        BadValue: an unknown network, or no such device.
        MissingData: there is no folder for `json`.
        UserError: there is too little memory.
    """
    from transfer.costs.bare_steps import choose_device
    from transfer.costs.latency import RUNS, measure_latency
    from transfer.costs.profile import network_parts
    from transfer.costs.units import format_bytes
    from transfer.environment import write_figures

    check_folder("json", json)
    place = choose_device(device)
    batch_size = batch_size or 8
    asked = find_network(name, num_classes, image_size, allow_user_code)
    counted = asked.profile(batch_size, precision)
    network = asked.builder()()
    options: dict[str, Any] = {"device": place, "precision": precision, "threads": threads, "runs": runs or RUNS}
    single = measure_latency(network, counted.image_size, parts=network_parts(network), **options)
    latencies = [single]
    if batch_size > 1:
        latencies.append(measure_latency(network, counted.image_size, batch_size, **options))
    size = counted.image_size
    measured = measure_peaks(asked, size, batch_size, precision, place, threads) if measure_memory else {}

    print_table(parts_table(name, counted, single))
    total = counted.training.total(batch_size)
    for kind, predicted in (("training", total), ("inference", counted.inference_bytes)):
        seen = f", measured {format_bytes(measured[kind])}" if kind in measured else ""
        print(f"memory, {kind}, batch {batch_size}: {format_bytes(predicted)} predicted{seen}")
    fixed, per_image = counted.training.fixed, counted.training.per_image
    print(
        f"  of training: {format_bytes(fixed)} parameters, gradients, momentum and buffers, and"
        f" {format_bytes(per_image)} for each image ({precision})"
    )
    for latency in latencies:
        print(f"latency, {describe_latency(latency)}")
    figures = {"network": name, **asdict(counted), "training_bytes": total, "measured_bytes": measured}
    write_figures(json, {**figures, "latency": [asdict(latency) for latency in latencies]})
    say_next_of(name)


def measure_peaks(
    network: Network, image_size: int, batch_size: int, precision: Any, device: Device, threads: int | None
) -> dict[str, int]:
    """Return the bytes at the peak of a training step and of inference, each in a process of its own."""
    from transfer.costs.peak_memory import measure_peak

    build = network.builder()
    on_gpu = device.type == "cuda"
    options: dict[str, Any] = {"precision": precision, "on_gpu": on_gpu, "threads": threads}
    return {
        kind: measure_peak(build, image_size, batch_size, training=training, **options)
        for kind, training in (("training", True), ("inference", False))
    }


def parts_table(name: str, counted: Profile, latency: Latency) -> Table:
    """Return a table with a line for each part, and the sums."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from transfer.costs.units import format_bytes

    table = Table(
        title=f"{name} at {counted.image_size} px; for one image",
        caption="training: what it leaves for the backward pass; inference: the most alive at a time",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for column in ("parameters", "multiply-adds", "training", "inference", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for part in counted.parts:
        table.add_row(
            *(part.part, f"{part.num_parameters:,}", f"{part.macs:,}"),
            *(format_bytes(part.training_bytes), format_bytes(part.inference_bytes)),
            f"{latency.part_ms[part.part]:.2f}",
        )
    table.add_section()
    kept = sum(part.training_bytes for part in counted.parts)
    most = max((part.inference_bytes for part in counted.parts), default=0)
    table.add_row(
        *("all", f"{counted.num_parameters:,}", f"{counted.macs:,}", format_bytes(kept), format_bytes(most)),
        f"{latency.median_ms:.2f}",
    )
    return table


def describe_latency(latency: Latency) -> str:
    """Return a latency in one line."""
    return (
        f"batch {latency.batch_size}: {latency.median_ms:.2f} ms (quartiles {latency.lower_quartile_ms:.2f} to"
        f" {latency.upper_quartile_ms:.2f}, {latency.runs} runs, {latency.device})"
    )
