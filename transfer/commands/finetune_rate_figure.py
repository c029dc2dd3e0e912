"""The picture of a sweep over learning rates, drawn by matplotlib without a display."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure

from transfer.experiments.drawing import BLUE, DPI, GREY, INK, ORANGE, save_png, tidy
from transfer.training.rate_finder import RateCurve


def draw_curve(curve: RateCurve, path: Path) -> Path:
    """Draw the loss at each rate, smoothed, and the rate that is suggested, if any; return the path.

    Args:
        curve: what the sweep found.
        path: of the picture, 960 x 600 pixels.
    """
    figure = Figure(figsize=(6.4, 4.0), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xscale="log")
    axes.plot(curve.rates, curve.losses, color=GREY, lw=0.8, label="loss of each step")
    axes.plot(curve.rates, curve.smooth, color=BLUE, lw=1.8, label="smoothed")
    if (rate := curve.find()) is not None:
        axes.axvline(rate, color=ORANGE, lw=1.2, label=f"suggested: {rate:g}")
    if math.isfinite(curve.start):
        axes.set_ylim(0.0, 1.3 * curve.start)
    axes.set_xlabel("learning rate", fontsize=8, color=INK)
    axes.set_ylabel("training loss", fontsize=8, color=INK)
    axes.legend(fontsize=8, frameon=False)
    tidy(axes, 8)
    return save_png(figure, path)
