"""Charts as SVG inside the page; their colours are the page's, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 340, 215  # in CSS pixels, one of which is a point of the figure
_PLACE = (0.19, 0.2, 0.78, 0.77)  # left, bottom, width and height of the axes; a layout would take half of the time
# What matplotlib draws with, and the page's variable that takes its place.
_INK, _LINE = "#010101", "#020202"
_SERIES = ("#030303", "#040404", "#050505", "#060606")
_VARIABLES = {_INK: "--soft", _LINE: "--line", **{c: f"--series-{n}" for n, c in enumerate(_SERIES)}}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "report",
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _LINE,
}
_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: what the legend calls it.
        x, y: its points; NaN leaves a gap.
        dashed: whether it is a reference, drawn in dashes.
        joined: whether a line joins the points.
        low, high: ends of an interval at each point, in the unit of `y`; NaN for none, or empty.
        labels: a text beside each point, or empty.
    """

    name: str
    x: Sequence[float] | NDArray[np.float64]
    y: Sequence[float] | NDArray[np.float64]
    dashed: bool = False
    joined: bool = True
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """A chart with its legend.

    Attributes:
        title: what it shows.
        names: names of its lines, in the order of the page's colours.
        svg: the drawing.
    """

    title: str
    names: list[str]
    svg: Markup


def draw_lines(
    title: str,
    labels: tuple[str, str],
    lines: Sequence[Series],
    percent: bool = False,
    marked: float | None = None,
    log: bool = False,
) -> Chart:
    """Return a chart of up to four series.

    Args:
        title: what it shows.
        labels: of the axes.
        lines: the lines; of a single point a dot is drawn.
        percent: whether the values are shares.
        marked: where a vertical line is drawn.
        log: whether the horizontal axis is logarithmic.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
        axes = figure.add_axes(_PLACE, xscale="log" if log else "linear")
        for line, colour in zip(lines, _SERIES, strict=False):
            _draw_line(axes, line, colour)
        if marked is not None:
            axes.axvline(marked, color=_INK, lw=1, ls=(0, (2, 3)))
        if log:
            _spread(axes)
        elif len({*lines[0].x}) == 1:
            axes.set_xlim(lines[0].x[0] - 1, lines[0].x[0] + 1)
        _tidy(axes, labels, percent)
        for line, colour in zip(lines, _SERIES, strict=False):
            _name_points(axes, line, colour)
        return Chart(title, [line.name for line in lines], _svg(figure, title))


def _draw_line(axes: Axes, line: Series, colour: str) -> None:
    marker = "" if len(line.x) > 30 or (line.dashed and line.joined) else "o"
    style = (0, (4, 3)) if line.dashed else "-"
    size = 3.5 if line.joined else 5
    axes.plot(line.x, line.y, color=colour, lw=1.8, marker=marker, ms=size, ls=style if line.joined else "")
    if len(line.low):
        axes.vlines(line.x, line.low, line.high, color=colour, lw=1.2, ls=style)


def _spread(axes: Axes) -> None:
    """Leave room beside the points of a logarithmic axis, and write plain numbers below it."""
    low, high = axes.get_xlim()
    low, high = low / 1.15, high * 1.15
    axes.set_xlim(low, high)
    subs = (1, 2, 5) if high < 50 * low else (1,)  # so many labels have room
    axes.xaxis.set_major_locator(LogLocator(subs=subs) if high > 5 * low else MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name_points(axes: Axes, line: Series, colour: str) -> None:
    """Write the points' texts beside them, toward the middle, where there is room."""
    for x, y, text in zip(line.x, line.y, line.labels, strict=False):
        to_axes = axes.transData + axes.transAxes.inverted()
        is_left = to_axes.transform((x, y))[0] < 0.5
        axes.annotate(
            text,
            (x, y),
            xytext=(5 if is_left else -5, 4),
            textcoords="offset points",
            ha="left" if is_left else "right",
            fontsize=9,
            color=colour,
            parse_math=False,
        )


def _tidy(axes: Axes, labels: tuple[str, str], percent: bool) -> None:
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", length=0)
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=labels[0] in ("epoch", "step")))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%" if percent else f"{value:g}"))
    axes.yaxis.set_label_coords(-0.2, 0.5)


def _svg(figure: Figure, title: str) -> Markup:
    """Return a figure as an element of the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' id="(figure|axes|patch|text|line2d|matplotlib\.axis|xtick|ytick)_\d+"', "", text)
    text = re.sub(r"<svg [^>]*>", _opening(title), text, count=1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return Markup(text)  # matplotlib escapes what it writes, and the title is escaped here


def _opening(title: str) -> str:
    return str(
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, title)
    )
