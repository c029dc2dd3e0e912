"""The picture of a choice: accuracy against latency, as the paper's Figure 6; drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from transfer.errors import printable
from transfer.experiments.drawing import BLUE, DPI, GREEN, GREY, INK, ORANGE, save_png, tidy
from transfer.experiments.point_names import PointName, keep_apart
from transfer.records import Interval

_BESIDE = 9  # points of type between the intervals of a network's two methods


class Point(NamedTuple):
    """A network: its name, milliseconds for one image, accuracy in [0, 1] and its interval."""

    name: str
    latency_ms: float
    accuracy: float
    interval: Interval


def draw_frontier(
    points: Sequence[Point],
    front: Sequence[int],
    chosen: int,
    texts: tuple[str, str, str],
    path: Path,
    tuned: Point | None = None,
    takes_tuned: bool = False,
) -> Path:
    """Draw each network with its interval, the line through the front, and the chosen one filled; return the path.

    Args:
        points: the networks.
        front: indices of those that no other beats, fastest first.
        chosen: index of the one to take.
        texts: title, and the labels of the axes of latency and accuracy.
        path: of the picture, 960 x 720 pixels.
        tuned: the chosen one fine-tuned, which takes as long; it is drawn a little to the right.
        takes_tuned: whether that is to take.
    """
    figure = Figure(figsize=(6.4, 4.8), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xscale="log")
    line = [points[index] for index in front]
    axes.plot([p.latency_ms for p in line], [100 * p.accuracy for p in line], color=BLUE, lw=1.2, zorder=2)
    names = []
    for index, point in enumerate(points):
        taken = index == chosen and not takes_tuned
        colour = ORANGE if taken else BLUE if index in front else GREY
        names.append(_draw(axes, point, colour, taken, zorder=4 if index == chosen else 3))
    if tuned is not None:
        colour = ORANGE if takes_tuned else GREEN
        names.append(_draw(axes, tuned, colour, takes_tuned, marker="s", shift=_BESIDE, zorder=4))
    drawn = [*points, *([] if tuned is None else [tuned])]
    latencies = [point.latency_ms for point in drawn]
    axes.set_xlim(min(latencies) / 1.6, max(latencies) * 1.6)  # room for the names
    low, high = (100 * end for end in (min(p.interval.low for p in drawn), max(p.interval.high for p in drawn)))
    axes.set_ylim(low - 0.1 * (high - low) - 0.1, high + 0.1 * (high - low) + 0.1)  # and here above and below
    is_wide = max(latencies) > 5 * min(latencies)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if is_wide else MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    title, x_label, y_label = map(printable, texts)
    axes.set_title(title, fontsize=10, color=INK, loc="left", parse_math=False)
    axes.set_xlabel(x_label, fontsize=8, color=INK, parse_math=False)
    axes.set_ylabel(y_label, fontsize=8, color=INK)
    tidy(axes, 8)
    keep_apart(names)
    return save_png(figure, path)


def _draw(
    axes: Axes, point: Point, colour: str, taken: bool, *, marker: str = "o", shift: float = 0, zorder: int
) -> PointName:
    """Draw a point with its interval and return its name, `shift` points of type to the right of where it belongs."""
    right = ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    errors = [[100 * abs(point.accuracy - end)] for end in (point.interval.low, point.interval.high)]
    axes.errorbar(
        point.latency_ms,
        100 * point.accuracy,
        errors,
        fmt=marker,
        color=colour,
        markersize=7 if taken else 5,
        capsize=3,
        linewidth=1.2,
        transform=axes.transData + right,
        zorder=zorder,
    )
    text, ink = point.name + (" (taken)" if taken else ""), INK if colour == GREY else colour
    low, high = (100 * end for end in (point.interval.low, point.interval.high))
    return PointName(axes, text, ink, point.latency_ms, low, high, above=shift > 0, right=shift)
