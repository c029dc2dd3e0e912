"""What `table plan` prints: the costs of the cells to come."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table as Lines

from transfer.commands.next_steps import say_next
from transfer.commands.tables import print_table
from transfer.experiments.table.estimate import Estimate


def print_estimates(out: Path, estimates: Iterable[Estimate]) -> None:
    """Print one line for the cells that differ only by their seed, and the sums."""
    estimates = list(estimates)
    number = sum(len(line.cells) for line in estimates)
    lines = Lines(title=f"{number} cells in {out}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("dataset", "backbone", "protocol"):
        lines.add_column(column, no_wrap=True)
    for column in ("cells", "px", "steps", "hours", "GiB", "disk"):
        lines.add_column(column, justify="right", no_wrap=True)
    for line in estimates:
        cell = line.cells[0]
        lines.add_row(
            *(cell.dataset, cell.backbone, cell.protocol, str(len(line.cells)), str(cell.image_size)),
            *(f"{line.steps:,}", "?" if math.isnan(line.hours) else f"{line.hours:,.2f}"),
            *(f"{line.memory:.1f}", f"{line.disk:.1f}"),
        )
    print_table(lines)
    searches: dict[str, str] = {}
    for line in estimates:
        searches.setdefault(line.cells[0].protocol, line.search)
    for protocol, search in searches.items():
        print(f"search of {protocol}: {search}")
    places = sorted({line.measured_on for line in estimates if line.measured_on is not None})
    total_hours, total_disk = sum(line.hours for line in estimates), sum(line.disk for line in estimates)
    print("hours: of one device, for all cells of the line; GiB: memory of a device; disk: GiB of checkpoints")
    print(f"{total_hours:,.2f} device-hours, {total_disk:.1f} GiB on disk (the data is not counted)")
    print(f"from the speed of training steps alone, on {'; '.join(places)}: loading and validation come on top")
    say_next("table planned", out)
