"""What a choice says, and the files that it leaves besides choose.json."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from datamodules.dataset.loaded import Dataset
from transfer.commands.choose.candidates import Images, Tried
from transfer.commands.choose.decision import Decision
from transfer.costs.limits import format_cost
from transfer.files import written_whole
from transfer.resampling import Difference
from transfer.runs.test_record import text_array

OUT_OF_FOLD, PICTURE = "out_of_fold.npz", "frontier.png"


def explain(tried: Sequence[Tried], decision: Decision) -> list[str]:
    """Return why a network is taken, a line for each comparison."""
    best = tried[decision.most_accurate]
    lines = [f"{best.candidate} is the most accurate"]
    for faster, difference in decision.comparisons.items():
        other = tried[faster]
        end = "more than the interval" if difference.is_better else "not more than the interval: it is taken"
        lines.append(
            f"{other.candidate} is {_ratio(best, other)} times as fast, and {best.candidate} better by"
            f" {_points(difference)}, {end}"
        )
    passed = decision.front[: decision.front.index(decision.chosen)]
    if untested := [str(tried[number].candidate) for number in passed if number not in decision.comparisons]:
        lines.append(f"faster only within the spread of the timed runs: {', '.join(untested)}")
    if beaten := [str(one.candidate) for number, one in enumerate(tried) if number not in decision.front]:
        lines.append(f"another is as fast and as accurate, or more: {', '.join(beaten)}")
    return lines


def describe(tried: Sequence[Tried], decision: Decision, images: Images) -> str:
    """Return the choice in one sentence."""
    chosen, best = tried[decision.chosen], tried[decision.most_accurate]
    interval = chosen.found.interval.percent()
    text = f"{chosen.candidate}, linear probe: {100 * chosen.found.value:.1f}% ({interval}, {images})"
    if not decision.comparisons:
        return text + ("" if len(tried) == 1 else "; no other is more accurate")
    faster, difference = list(decision.comparisons.items())[-1]
    if decision.chosen == faster:
        ratio = _ratio(best, chosen)
        return (
            f"{text}; it is {ratio} times as fast as {best.candidate} and not worse beyond the interval: the other is"
            f" better by {_points(difference)}"
        )
    other = tried[faster]
    return (
        f"{text}; {other.candidate} is {_ratio(best, other)} times as fast, but worse beyond the interval: by"
        f" {_points(difference)}"
    )


def _ratio(slow: Tried, fast: Tried) -> str:
    return f"{slow.candidate.latency.median_ms / fast.candidate.latency.median_ms:.2f}"


def _points(difference: Difference) -> str:
    return f"{100 * difference.value:.1f} points ({100 * difference.low:.1f} to {100 * difference.high:.1f})"


def print_figures(tried: Sequence[Tried], decision: Decision, reasons: Sequence[str]) -> None:
    """Print a table with a line for each candidate, fastest first, then the reasons."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    device = tried[0].candidate.latency.device
    table = Table(
        title=f"one image, float32 by PyTorch, {device}; * on the front",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", no_wrap=True)
    for column in ("ms", "parameters", "mult-adds", "accuracy", "interval", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for number in sorted(range(len(tried)), key=lambda number: tried[number].candidate.latency.median_ms):
        candidate, found = tried[number].candidate, tried[number].found
        table.add_row(
            *(str(candidate), f"{candidate.latency.median_ms:.1f}"),
            *(format_cost("num_parameters", candidate.num_parameters, 3), format_cost("macs", candidate.macs, 3)),
            *(f"{100 * found.value:.1f}%", found.interval.percent(), "*" if number in decision.front else ""),
        )
    Console().print(table)
    print(*reasons, sep="\n")


def warn_of_no_picture() -> None:
    """Warn that no picture will be drawn, if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        warnings.warn(
            f"no {PICTURE}: it is drawn with matplotlib; run: pip install 'efficientnet-transfer[table]'", stacklevel=2
        )


def write_files(
    folder: Path, name: str, tried: Sequence[Tried], decision: Decision, images: Images, dataset: Dataset
) -> None:
    """Write the out-of-fold logits and, with matplotlib, the picture.

    The arrays are `label` (N,), `path` (N,), `class_name` (C,), `fold` (R, N), with groups `group` (N,), and for each
    candidate `logits_<backbone>_<image size>` (R, N, C). `name` is the data's in the picture's title.
    """
    names = {"path": text_array(images.names), "class_name": text_array(dataset.class_names)}
    arrays = {"label": images.labels, **names, "fold": images.folds}
    if images.groups is not None:
        arrays["group"] = images.groups
    for one in tried:
        start = one.candidate.start
        arrays[f"logits_{start.variant.name}_{start.preprocessing.image_size}"] = one.found.logits.numpy()
    with written_whole(folder / OUT_OF_FOLD) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its types know allow_pickle only
    if find_spec("matplotlib") is not None:
        from transfer.commands.choose.figure import Point, draw_frontier

        points = [
            Point(str(one.candidate), one.candidate.latency.median_ms, one.found.value, one.found.interval)
            for one in tried
        ]
        unit = "mean per class (%)" if dataset.sheet.metric == "mean_per_class" else "accuracy (%)"
        title = f"{name}: linear probe, {images}, {len(images.labels):,} images"
        axis = f"ms for one image, float32 by PyTorch, {tried[0].candidate.latency.device}"
        draw_frontier(points, decision.front, decision.chosen, (title, axis, unit), folder / PICTURE)
