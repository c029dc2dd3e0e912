"""The pictures of studies, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from transfer.experiments.drawing import BLUE, DPI, GREEN, GREY, INK, ORANGE, PINK, SKY, distances, save_figure, tidy
from transfer.experiments.scaling.ablation import Point
from transfer.experiments.scaling.ranking import RankedRound, Standing

Curves = Mapping[str, Sequence[tuple[Point, Standing]]]
_COLOURS = (BLUE, ORANGE, GREEN, PINK)
# Of the trials of the last round, the one before, and all earlier ones.
_BY_ROUND = (BLUE, SKY, GREY)
_LETTERS = {"width": "w", "depth": "d", "resolution": "r", "compound": "phi"}
# Where the labels of a curve lie about its points, so that those of curves that cross are apart. The baseline, where
# all curves meet, has a place of its own.
_BELOW = {"xytext": (0, -6), "ha": "center", "va": "top"}
_PLACES = (
    {"xytext": (3, -4), "ha": "left", "va": "top"},
    {"xytext": (3, 4), "ha": "left", "va": "bottom"},
    {"xytext": (-3, -4), "ha": "right", "va": "top"},
    {"xytext": (-3, 4), "ha": "right", "va": "bottom"},
)


def draw_ranking(standings: Sequence[Standing], all_rounds: Sequence[RankedRound], path: Path) -> list[Path]:
    """Draw the networks from the best down and return its files.

    Each seed is a dot, the mean a diamond with its 95% interval. The band holds what cannot be told from the best.
    Networks that were discarded earlier are paler.

    Args:
        standings: the networks, best first.
        all_rounds: the rounds that they took part in.
        path: file to write.
    """
    figure = Figure(figsize=(7, 0.22 * len(standings) + 1.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    last = all_rounds[-1]
    if last.noise is not None and (top := last.standings[0].mean):
        axes.axvspan(top.value - last.noise.significant_for_all(), top.value, color=GREEN, alpha=0.15, lw=0)
    for row, standing in enumerate(standings):
        if standing.mean is None:
            continue
        colour = _BY_ROUND[min(len(all_rounds) - 1 - standing.round, len(_BY_ROUND) - 1)]
        axes.plot(list(standing.scores.values()), [row] * len(standing.scores), "o", ms=3, color=colour, alpha=0.6)
        spread = distances(standing.mean)
        axes.errorbar(standing.mean.value, row, xerr=spread, fmt="D", ms=4, color=colour, capsize=2, lw=1)
    values = [score for standing in standings for score in standing.scores.values()]
    margin = 0.05 * (max(values) - min(values)) + 0.5
    # An interval of two seeds may run out of the picture.
    axes.set(xlim=(min(values) - margin, max(values) + margin), ylim=(len(standings) - 0.5, -0.5))
    labels = ["alpha {:g}, beta {:g}, gamma {:g}".format(*s.trial.values.values()) for s in standings]
    axes.set_yticks(range(len(standings)), labels)
    axes.set_xlabel("val accuracy (%); band: not told from the best", fontsize=8, color=INK)
    tidy(axes, 7)
    axes.grid(axis="y", visible=False)
    return save_figure(figure, path)


def draw_curves(figure: Literal[3, 4, 8], curves: Curves, path: Path) -> list[Path]:
    """Draw accuracy against multiply-adds, as the paper does, and return its files.

    Figure 3 has a panel for each dimension, Figures 4 and 8 have all curves in one. Means have 95% intervals and each
    seed is a dot. An interval that runs out of the picture is cut: that of two seeds is wide.

    Args:
        figure: number of the paper's figure.
        curves: points of each curve, in ascending order.
        path: file to write.
    """
    panels = len(curves) if figure == 3 else 1
    drawing = Figure(figsize=(3.2 * panels if figure == 3 else 5.5, 3.4), dpi=DPI, layout="constrained")
    axes = drawing.subplots(1, panels, sharey=True, squeeze=False)[0]
    costs = [standing.trial.num_macs for curve in curves.values() for _, standing in curve]
    unit, name = (1e9, "billions") if max(costs) >= 1e9 else (1e6, "millions")
    for number, (series, curve) in enumerate(curves.items()):
        panel = axes[number if figure == 3 else 0]
        _draw(panel, series, curve, unit, _COLOURS[number % len(_COLOURS)], _PLACES[number % len(_PLACES)])
        panel.set_xlabel(f"multiply-adds ({name})", fontsize=8, color=INK)
        if figure == 3:
            panel.set_title(f"{series} ({_LETTERS[series]})", fontsize=9, color=INK)
    values = [score for curve in curves.values() for _, standing in curve for score in standing.scores.values()]
    margin = 0.15 * (max(values) - min(values)) + 0.5
    axes[0].set_ylim(min(values) - margin, max(values) + margin)
    axes[0].set_ylabel("val accuracy (%)", fontsize=8, color=INK)
    for panel in axes:
        panel.margins(x=0.15)
        tidy(panel, 7)
    if figure != 3:
        axes[0].legend(fontsize=7, frameon=False)
    return save_figure(drawing, path)


def _draw(
    axes: Any, series: str, curve: Sequence[tuple[Point, Standing]], unit: float, colour: str, place: Mapping[str, Any]
) -> None:
    done = [(point, standing, standing.mean) for point, standing in curve if standing.mean]
    x = [standing.trial.num_macs / unit for _, standing, _ in done]
    y = [mean.value for *_, mean in done]
    below = [0 if mean.low is None else mean.value - mean.low for *_, mean in done]
    above = [0 if mean.high is None else mean.high - mean.value for *_, mean in done]
    for cost, (_, standing, _) in zip(x, done, strict=True):
        axes.plot([cost] * len(standing.scores), list(standing.scores.values()), ".", ms=4, color=colour, alpha=0.5)
    axes.errorbar(
        x, y, yerr=[below, above], fmt="o-", ms=4, lw=1.2, capsize=2, elinewidth=0.8, color=colour, label=series
    )
    letter = _LETTERS.get(series, "w")
    for cost, value, (point, *_) in zip(x, y, done, strict=True):
        is_baseline = point.depth == point.width == point.resolution == 1
        text, ink, where = ("baseline", INK, _BELOW) if is_baseline else (f"{letter}={point.value:g}", colour, place)
        axes.annotate(text, (cost, value), **where, textcoords="offset points", fontsize=6, color=ink)
