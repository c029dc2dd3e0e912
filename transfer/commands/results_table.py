"""The table that a run prints at its end."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from transfer.commands.tables import print_table
from transfer.paper import TABLE5_SOURCE, published_results
from transfer.records import Interval


def print_results(
    dataset: str,
    backbone: str,
    metrics: Mapping[str, Mapping[str, float]],
    quoted_metric: str = "top1",
    protocol: str | None = None,
    intervals: Mapping[str, Mapping[str, Interval]] | None = None,
) -> None:
    """Print each metric on each split with its interval, and the published accuracies on that dataset below.

    Args:
        dataset: the dataset's name.
        backbone: name of the network, for the title.
        metrics: value of each metric on each split, in [0, 1]; loss in nats.
        quoted_metric: metric that the literature quotes for the dataset; it is marked in the table.
        protocol: the protocol whose paper the published accuracies are from; None: Table 5 of the EfficientNet paper.
        intervals: 95% intervals of metrics on each split.
    """
    published = published_results(protocol, dataset)
    splits = [split for split in ("train", "val", "test", "all") if metrics.get(split)]
    table = Table(title=f"{backbone} on {dataset}", title_justify="left")
    table.add_column("metric")
    for split in splits:
        table.add_column(split, justify="right")
    for name in metrics[splits[-1]] if splits else ():
        values = [metrics[split].get(name) for split in splits]
        label = f"{name} (quoted in the literature)" if published and name == quoted_metric else name
        table.add_row(label, *("" if v is None else _format(name, v) for v in values))
        found = [(intervals or {}).get(split, {}).get(name) for split in splits]
        if any(found):
            table.add_row("  95% interval", *(interval.percent() if interval else "" for interval in found))
    if published:
        table.add_section()
        for network, result in published:
            label = f"paper, {network} (Table 5)" if result.source == TABLE5_SOURCE else f"{result.source}, {network}"
            table.add_row(label, *[""] * (len(splits) - 1), f"{result.accuracy:.1f}%")
    print_table(table)


def _format(name: str, value: float) -> str:
    return f"{value:.4f}" if name in ("loss", "ece") else f"{100 * value:.2f}%"
