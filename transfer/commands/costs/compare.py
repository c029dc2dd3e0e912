"""Networks against the first, as the paper's Table 4 does: efficientnet-transfer costs --compare b0,b4,resnet50"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.console import check_folder
from transfer.commands.costs.network import find_network
from transfer.commands.next_steps import say_next
from transfer.commands.tables import print_table

if TYPE_CHECKING:
    from rich.table import Table

    from transfer.costs.latency import Latency
    from transfer.costs.profile import Profile


def compare(
    names: Sequence[str],
    *,
    image_size: int | None,
    batch_size: int | None,
    num_classes: int | None,
    precision: Any,
    device: str | None,
    threads: int | None,
    runs: int | None,
    allow_user_code: bool,
    json: Path | None,
) -> None:
    """Print networks against the first, as the paper's Table 4 does, and that table.

    Raises:
        BadValue: an unknown network, or no such device.
        MissingData: there is no folder for `json`.
        UserError: there is too little memory.
    """
    from transfer.costs.bare_steps import choose_device
    from transfer.costs.latency import RUNS, measure_latency
    from transfer.environment import write_figures
    from transfer.paper import TABLE4

    check_folder("json", json)
    place = choose_device(device)
    size = batch_size or 1
    networks = {name: find_network(name, num_classes, image_size, allow_user_code) for name in names}
    counts = {name: network.profile(size, precision) for name, network in networks.items()}
    options: dict[str, Any] = {"device": place, "precision": precision, "threads": threads, "runs": runs or RUNS}
    latencies = {
        name: measure_latency(network.builder()(), counts[name].image_size, size, **options)
        for name, network in networks.items()
    }
    first = latencies[names[0]]
    print_table(comparison_table(counts, latencies, size))
    print("The paper's Table 4 (batch 1, one core of a Xeon E5-2690, mean of 20 runs):")
    for row in TABLE4:
        print(
            f"  {row.peer} {row.peer_seconds:g} s, {row.backbone} {row.seconds:g} s:"
            f" {row.printed_ratio:g} times {row.backbone}"
        )
    figures = {name: {**asdict(counts[name]), "latency": asdict(latencies[name])} for name in names}
    ratios = {name: latency.median_ms / first.median_ms for name, latency in latencies.items()}
    paper = [asdict(row) for row in TABLE4]
    write_figures(json, {"networks": figures, "times_the_first": ratios, "table4": paper})
    say_next("networks compared", names[0])


def comparison_table(counts: Mapping[str, Profile], latencies: Mapping[str, Latency], batch_size: int) -> Table:
    """Return a table with a line for each network, the first of which is the measure of the ratios."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from transfer.costs.units import format_bytes

    first_name, first = next(iter(latencies.items()))
    table = Table(
        title=f"inference, batch {batch_size}, {first.device}; ratio to {first_name}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", no_wrap=True)
    for column in ("px", "parameters", "mult-adds", "memory", "ms", "quartiles", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, counted in counts.items():
        latency = latencies[name]
        table.add_row(
            *(name, str(counted.image_size), f"{counted.num_parameters / 1e6:.2f} M", f"{counted.macs / 1e9:.3f} G"),
            *(format_bytes(counted.inference_bytes), f"{latency.median_ms:.1f}"),
            f"{latency.lower_quartile_ms:.1f} to {latency.upper_quartile_ms:.1f}",
            f"{latency.median_ms / first.median_ms:.2f}",
        )
    return table
