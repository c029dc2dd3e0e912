"""The table that a run prints at its end."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from transfer.paper import TABLE5_SOURCE, published_results
from transfer.runs.results import Results
from transfer.statistics import Interval, accuracy_intervals


def print_results(
    dataset: str,
    backbone: str,
    metrics: Mapping[str, Mapping[str, float]],
    quoted_metric: str = "top1",
    protocol: str | None = None,
) -> None:
    """Print each metric on each split, with the published accuracies on that dataset below.

    Args:
        dataset: the dataset's name.
        backbone: name of the network, for the title.
        metrics: value of each metric on each split, in [0, 1]; loss in nats.
        quoted_metric: metric that the literature quotes for the dataset; it is marked in the table.
        protocol: the protocol whose paper the published accuracies are from; None: Table 5 of the EfficientNet paper.
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
    if published:
        table.add_section()
        for network, result in published:
            label = f"paper, {network} (Table 5)" if result.source == TABLE5_SOURCE else f"{result.source}, {network}"
            table.add_row(label, *[""] * (len(splits) - 1), f"{result.accuracy:.1f}%")
    Console().print(table)


def print_test_intervals(results: Results) -> None:
    """Print the 95% intervals of a run's accuracies on test, if it has any."""
    test = results.splits.get("test")
    if test is None or "test" not in results.metrics:
        return
    num_images = test.size if results.tested_images is None else results.tested_images
    counts = test.class_counts if num_images == test.size else None
    if intervals := accuracy_intervals(results.test, num_images, counts):
        print(f"test: {describe_intervals(intervals, num_images)}")


def describe_intervals(intervals: Mapping[str, Interval], num_images: int) -> str:
    """Return the line that says how far metrics may be off, found on so many images."""
    shown = [f"{name} {100 * i.low:.2f}% to {100 * i.high:.2f}%" for name, i in intervals.items()]
    return f"95% intervals for other images like these {num_images:,}: {', '.join(shown)}"


def _format(name: str, value: float) -> str:
    return f"{value:.4f}" if name in ("loss", "ece") else f"{100 * value:.2f}%"
