"""The picture of a sweep, as the paper draws it: accuracy against multiply-adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from transfer.experiments.scaling.figures import COLOURS, INK, save_png, tidy
from transfer.experiments.scaling.ranking import Curves

_LETTERS = {"width": "w", "depth": "d", "resolution": "r", "compound": "phi"}
# Of a curve's labels about its points: curves that cross have theirs apart. The baseline, where they meet, has one.
_BELOW = {"xytext": (0, -6), "ha": "center", "va": "top"}
_PLACES = (
    {"xytext": (3, -4), "ha": "left", "va": "top"},
    {"xytext": (3, 4), "ha": "left", "va": "bottom"},
    {"xytext": (-3, -4), "ha": "right", "va": "top"},
    {"xytext": (-3, 4), "ha": "right", "va": "bottom"},
)


def draw_curves(figure: Literal[3, 4, 8], curves: Curves, path: Path) -> Path:
    """Figure 3: a panel for each dimension; 4 and 8: all curves in one. Means with 95% intervals; each seed a dot.

    An interval that runs out of the picture is cut: that of two seeds is wide.
    """
    panels = len(curves) if figure == 3 else 1
    drawing = Figure(figsize=(3.2 * panels if figure == 3 else 5.5, 3.4), dpi=150, layout="constrained")
    axes = drawing.subplots(1, panels, sharey=True, squeeze=False)[0]
    costs = [standing.trial.num_macs for curve in curves.values() for _, standing in curve]
    unit, name = (1e9, "billions") if max(costs) >= 1e9 else (1e6, "millions")
    for number, (series, curve) in enumerate(curves.items()):
        panel = axes[number if figure == 3 else 0]
        _draw(panel, series, curve, unit, COLOURS[number % len(COLOURS)], _PLACES[number % len(_PLACES)])
        panel.set_xlabel(f"multiply-adds ({name})", fontsize=8, color=INK)
        if figure == 3:
            panel.set_title(f"{series} ({_LETTERS[series]})", fontsize=9, color=INK)
    values = [score for curve in curves.values() for _, standing in curve for score in standing.scores.values()]
    margin = 0.15 * (max(values) - min(values)) + 0.5
    axes[0].set_ylim(min(values) - margin, max(values) + margin)
    axes[0].set_ylabel("val accuracy (%)", fontsize=8, color=INK)
    for panel in axes:
        panel.margins(x=0.15)
        tidy(panel)
    if figure != 3:
        axes[0].legend(fontsize=7, frameon=False)
    return save_png(drawing, path)


def _draw(axes: Any, series: str, curve: list[Any], unit: float, colour: str, place: dict[str, Any]) -> None:
    done = [(point, standing) for point, standing in curve if standing.mean]
    x = [standing.trial.num_macs / unit for _, standing in done]
    y = [standing.mean.value for _, standing in done]
    spread = [standing.mean.half_width or 0 for _, standing in done]
    for cost, (_, standing) in zip(x, done, strict=True):
        axes.plot([cost] * len(standing.scores), list(standing.scores.values()), ".", ms=4, color=colour, alpha=0.5)
    axes.errorbar(x, y, yerr=spread, fmt="o-", ms=4, lw=1.2, capsize=2, elinewidth=0.8, color=colour, label=series)
    letter = _LETTERS.get(series, "w")
    for cost, value, (point, _) in zip(x, y, done, strict=True):
        is_baseline = point.depth == point.width == point.resolution == 1
        text, ink, where = ("baseline", INK, _BELOW) if is_baseline else (f"{letter}={point.value:g}", colour, place)
        axes.annotate(text, (cost, value), **where, textcoords="offset points", fontsize=6, color=ink)
