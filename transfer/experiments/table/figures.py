"""The report's pictures, drawn by matplotlib without a display."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from transfer.errors import printable
from transfer.experiments.drawing import (
    AMBER,
    BLUE,
    DPI,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    SKY,
    distances,
    save_figure,
    tidy,
)
from transfer.experiments.point_names import PointName, keep_apart
from transfer.experiments.table.results import Result
from transfer.experiments.table.verdicts import MARGIN, Table5Line, status
from transfer.paper import (
    DATASET_TITLES,
    EFFICIENTNET_DIGITISED,
    FURTHER_TITLES,
    GPIPE,
    KORNBLITH_DIGITISED,
    PARAMETERS_WITHOUT_CLASSIFIER,
    SIMCLR_RESNET50,
    paper_results,
)
from transfer.statistics import Mean

# The paper's colour, and one for each of our protocols.
_PAPER, _OURS = ORANGE, (BLUE, GREEN, PINK, SKY, AMBER)
_MARKERS = "osDv^"
_STATUS_COLOURS = {"reproduced": GREEN, "better": BLUE, "short": ORANGE, "failed": "#B00020"}
_ROW_HEIGHT = 0.3  # inches
# Where the columns of Table 5 begin, as a share of their width.
_PLACES = {
    **{"dataset": 0.02, "set against": 0.17, "paper": 0.36, "ours": 0.46, "parameters": 0.59, "protocol": 0.73},
    "status": 0.85,
}
_WIDEST_DIFFERENCE = 3.0  # points; larger ones are drawn at the edge
_UNITS = {"mean_per_class": "mean per class", "map": "mAP", "map_11": "11-point mAP"}


def draw_figure6(results: Sequence[Result], path: Path) -> list[Path]:
    """Draw the paper's Figure 6 with our results in it and return its files.

    Each dataset has a panel of accuracy against parameters without the classifier. Peers are grey, the paper's
    EfficientNets (filled: Table 5; hollow: digitised) and ours are coloured, ours just to the right of their place
    (hollow: not comparable); what was not run is absent. A row has up to four panels of 540 x 480 pixels; the legend is
    above them.
    """
    shown = [result for result in results if result.done or result.dataset in DATASET_TITLES]
    groups = [(name, list(group)) for name, group in groupby(shown, lambda result: result.dataset)]
    protocols = list(dict.fromkeys(result.protocol for result in results if result.done))
    styles = {name: (_OURS[i % len(_OURS)], _MARKERS[i % len(_MARKERS)], i) for i, name in enumerate(protocols)}
    handles = [Line2D([], [], color=c, marker=m, ls="", label=_shown(f"ours, {n}")) for n, (c, m, _) in styles.items()]
    if any(dataset in DATASET_TITLES | FURTHER_TITLES for dataset, _ in groups):
        handles += [
            Line2D([], [], color=_PAPER, marker="o", lw=1, label="EfficientNet, paper (hollow: digitised)"),
            Line2D([], [], color=GREY, marker="o", ms=4, lw=0.8, label="other networks, published"),
        ]
    columns = min(4, len(groups))
    rows, legend_rows = -(-len(groups) // columns), -(-len(handles) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * rows + 0.2 + 0.2 * legend_rows), dpi=DPI, layout="constrained")
    names: list[PointName] = []
    for position, (dataset, group) in enumerate(groups):
        axes = figure.add_subplot(rows, columns, position + 1, xscale="log")
        names += _draw_published(axes, dataset)
        for result in group:
            if result.num_parameters and (mean := result.quoted):
                names.append(_draw_own(axes, result, mean, *styles[result.protocol]))
        metrics = {result.quoted_metric for result in group if result.done}
        unit = _UNITS.get(metrics.pop(), "accuracy") if len(metrics) == 1 else "accuracy"
        _finish_panel(axes, dataset, f"{unit} (%)")
    figure.supxlabel("parameters without the classifier, millions", fontsize=9, color=INK)
    legend = figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    keep_apart(names)
    return save_figure(figure, path)


def _draw_published(axes: Any, dataset: str) -> Iterator[PointName]:
    """Draw the published results and yield the names of some of them."""
    peers = [row for row in (*KORNBLITH_DIGITISED, *GPIPE) if dataset in row.accuracy]
    if dataset == "birdsnap" or dataset in FURTHER_TITLES:  # in none of the tables above but GPipe's
        peers.append(SIMCLR_RESNET50["fine-tuned"])
    points = [(_family(row.network), row.millions or 0, row.accuracy[dataset]) for row in peers]
    known = {(family, millions) for family, millions, _ in points}
    for cell in paper_results(dataset):
        family = _family(cell.peer)
        if cell.peer_millions is not None and cell.column == "public" and (family, cell.peer_millions) not in known:
            points.append((family, cell.peer_millions, cell.peer_accuracy))
    for family, group in groupby(sorted(points), lambda point: point[0]):
        _, millions, accuracies = zip(*group, strict=True)
        axes.plot(millions, accuracies, color=GREY, marker="o", ms=3, lw=0.8, zorder=1)
        end = 0 if family in ("Inception", "ResNet") else -1  # their largest networks lie on top of each other
        yield PointName(axes, _shown(family, 20), GREY, millions[end], accuracies[end], accuracies[end])
    printed = {cell.backbone: cell.accuracy for cell in paper_results(dataset)}
    digitised = {row.network: row.accuracy[dataset] for row in EFFICIENTNET_DIGITISED if dataset in row.accuracy}
    series = sorted((PARAMETERS_WITHOUT_CLASSIFIER[name] / 1e6, name) for name in {**digitised, **printed})
    accuracy = {**digitised, **printed}
    axes.plot([x for x, _ in series], [accuracy[name] for _, name in series], color=_PAPER, lw=1, zorder=2)
    for x, name in series:
        face = _PAPER if name in printed else "white"
        axes.plot(x, accuracy[name], color=_PAPER, marker="o", ms=5, mfc=face, zorder=3)
        if name in printed:
            yield PointName(axes, name.upper(), _PAPER, x, accuracy[name], accuracy[name], above=True)


def _draw_own(axes: Any, result: Result, mean: Mean, colour: str, marker: str, place: int) -> PointName:
    """Draw a result of ours and return its name, which is empty where the paper's point has it."""
    x = (result.num_parameters or 0) / 1e6
    # Beside the paper's point and the other protocols', by a fixed number of points on paper: all have one x.
    right = 5 * (place + 1)
    shift = ScaledTranslation(right / 72, 0, axes.figure.dpi_scale_trans)
    deviates = status(result).name == "not comparable"
    face = "white" if deviates else colour
    axes.errorbar(
        *(x, mean.value, distances(mean)),
        **{"color": colour, "marker": marker, "ms": 5, "mfc": face, "capsize": 2, "lw": 1.2, "zorder": 4},
        transform=axes.transData + shift,
    )
    reach = mean.half_width or 0
    if mean.count == 2:
        reach = min(reach, 1)  # it may run out of the panel
    axes.update_datalim([(x, mean.value - reach), (x, mean.value + reach)])  # shifted points are left out of the limits
    named = {cell.backbone for cell in paper_results(result.dataset)}
    text = "" if result.backbone in named else result.backbone
    return PointName(axes, _shown(text, 20), colour, x, mean.value - reach, mean.value + reach, right=right)


def _finish_panel(axes: Any, dataset: str, unit: str) -> None:
    axes.margins(y=0.16)  # has room for names above and below
    axes.autoscale_view()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if dataset in DATASET_TITLES:
        axes.set_xlim(1.7, 1000)
    else:
        low, high = axes.get_xlim()
        axes.set_xlim(low / 1.5, high * 1.5)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    title = (DATASET_TITLES | FURTHER_TITLES).get(dataset, dataset)
    axes.set_title(_shown(title), fontsize=10, color=INK, loc="left", parse_math=False)
    axes.set_ylabel(unit, fontsize=8, color=INK)
    tidy(axes, 8)


def draw_table5(lines: Sequence[Table5Line], path: Path) -> list[Path]:
    """Draw Table 5 and return its files.

    Each cell has a row, 1800 x 45 pixels, with the paper's accuracy, ours, the status, and their difference as a chart.
    There, zero is the paper's EfficientNet, the band what an interval must lie in to count as reproduced, the bar our
    95% interval, and the diamond the network that the paper compares it with. What is not comparable has no bar: what
    deviates is written there.
    """
    height = _ROW_HEIGHT * (len(lines) + 4)
    figure = Figure(figsize=(12, height), dpi=DPI)
    table = figure.add_axes((0.0, 0.0, 0.7, 1.0), frameon=False, xticks=[], yticks=[])
    top, bottom = 1 - 2 * _ROW_HEIGHT / height, 2 * _ROW_HEIGHT / height
    chart = figure.add_axes((0.71, bottom, 0.28, top - bottom))
    table.set(xlim=(0, 1), ylim=(height / _ROW_HEIGHT - 2.5, -2.5))
    chart.set(xlim=(-_WIDEST_DIFFERENCE * 1.05, _WIDEST_DIFFERENCE * 1.05), ylim=(len(lines) - 0.5, -0.5), yticks=[])
    for head, x in _PLACES.items():
        table.text(x, -1, head, fontsize=9, weight="bold", color=INK, va="center")
    chart.axvspan(-MARGIN, MARGIN, color=GREEN, alpha=0.15, lw=0)
    chart.axvline(0, color=_PAPER, lw=1)
    previous = None
    for row, line in enumerate(lines):
        _write_row(table, row, line, is_new=line.paper != previous)
        _draw_difference(chart, row, line)
        if previous is not None and line.paper.dataset != previous.dataset:
            for axes in (table, chart):
                axes.axhline(row - 0.5, color=FAINT, lw=0.6, zorder=0)
        previous = line.paper
    chart.set_xlabel("ours less the paper's, points", fontsize=8, color=INK)
    chart.tick_params(labelsize=8, colors=INK)
    chart.spines[["top", "right", "left"]].set_visible(False)
    handles = [
        Line2D([], [], color=_OURS[0], marker="o", ls="-", label="ours, 95% interval"),
        Line2D([], [], color=GREY, marker="D", ms=4, ls="", label="set against"),
    ]
    chart.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=8)
    return save_figure(figure, path)


def _write_row(axes: Any, row: int, line: Table5Line, *, is_new: bool) -> None:
    paper, result, found = line.paper, line.result, line.status
    long = found.name in ("not comparable", "inconclusive")
    texts = {"protocol": _shown(result.protocol, 14) if result else "", "status": found.name if long else str(found)}
    if is_new:
        texts["dataset"] = DATASET_TITLES[paper.dataset]
        texts["set against"] = f"{paper.peer} {paper.peer_accuracy:.1f}"
        texts["paper"] = f"{paper.backbone.upper()} {paper.accuracy:.1f}"
    if result and (mean := result.quoted):
        spread = "" if mean.half_width is None else f" ±{mean.half_width:.2f}"
        texts["ours"] = f"{mean.value:.2f}{spread}"
    if result and result.num_parameters:
        ratio = "" if line.ratio is None else f", {line.ratio:.0f}x" if line.ratio >= 10 else f", {line.ratio:.1f}x"
        texts["parameters"] = f"{result.num_parameters / 1e6:.1f}M{ratio}"
    for head, text in texts.items():
        colour = _STATUS_COLOURS.get(found.name, GREY) if head == "status" else INK
        axes.text(_PLACES[head], row, text, fontsize=9, color=colour, va="center", parse_math=False)


def _draw_difference(axes: Any, row: int, line: Table5Line) -> None:
    if line.status.name == "not comparable":
        text = _shown(line.status.detail, 66)
        style = {"fontsize": 7, "color": INK, "va": "center", "ha": "center", "parse_math": False}
        axes.text(0, row, text, **style)
        return
    peer = line.paper.peer_accuracy - line.paper.accuracy
    axes.plot(peer, row, color=GREY, marker="D", ms=4, zorder=2)
    mean = line.result.quoted if line.result else None
    if mean is None:
        return
    difference = mean.value - line.paper.accuracy
    if abs(difference) <= _WIDEST_DIFFERENCE:
        axes.errorbar(difference, row, xerr=distances(mean), color=_OURS[0], marker="o", ms=5, capsize=3, zorder=3)
        return
    marker, side, sign = (">", "right", 1) if difference > 0 else ("<", "left", -1)
    edge = sign * _WIDEST_DIFFERENCE
    axes.plot(edge, row, color=_OURS[0], marker=marker, ms=6, zorder=3)
    style = {"ha": side, "va": "center", "fontsize": 8, "color": _OURS[0]}
    axes.annotate(f"{difference:+z.1f}", (edge, row), xytext=(-6 * sign, 0), textcoords="offset points", **style)


def _family(network: str) -> str:
    return re.split(r"[ -]", network)[0]


def _shown(text: str, width: int = 32) -> str:
    return textwrap.shorten(printable(text), width, placeholder="...") or printable(text)[:width]
