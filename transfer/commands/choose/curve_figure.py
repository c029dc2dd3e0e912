"""The picture of a learning curve, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from transfer.errors import printable
from transfer.experiments.drawing import BLUE, DPI, INK, ORANGE, save_png, tidy
from transfer.probe.learning_curve import Extrapolation

if TYPE_CHECKING:
    from transfer.commands.choose.curve import Point


def draw_curve(
    points: Sequence[Point],
    found: Extrapolation | str,
    num_images: int,
    num_classes: int,
    texts: tuple[str, str],
    path: Path,
) -> Path:
    """Draw the measured accuracies with their intervals and, up to four times the photos, the extrapolated ones.

    Args:
        points: the measured accuracies.
        found: the extrapolation, or why there is none.
        num_images: photos there are.
        num_classes: number of classes.
        texts: title, and the label of the axis of accuracy.
        path: of the picture, 960 x 720 pixels.
    """
    figure = Figure(figsize=(6.4, 4.8), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xscale="log")
    x = [point.images / num_classes for point in points]
    ends = [(point.accuracy - point.interval.low, point.interval.high - point.accuracy) for point in points]
    errors = 100 * np.maximum(ends, 0).T
    y = [100 * point.accuracy for point in points]
    axes.errorbar(x, y, errors, fmt="o", color=BLUE, markersize=5, capsize=3, lw=1.2, label="measured", zorder=3)
    if not isinstance(found, str):
        images = np.geomspace(points[0].images, 4 * num_images, 60)
        line, bounds = zip(*(found.accuracy(each) for each in images), strict=True)
        axes.plot(images / num_classes, 100 * np.array(line), color=ORANGE, lw=1.2, ls="--", label="power law")
        low, high = (100 * np.array([getattr(each, end) for each in bounds]) for end in ("low", "high"))
        axes.fill_between(images / num_classes, low, high, color=ORANGE, alpha=0.15, lw=0)
        for factor in (1, 2, 4):
            axes.axvline(factor * num_images / num_classes, color=INK, lw=0.6, ls=":")
            axes.annotate(
                "all photos" if factor == 1 else f"{factor} x",
                (factor * num_images / num_classes, 0.01),
                xycoords=("data", "axes fraction"),
                xytext=(-3, 0),
                textcoords="offset points",
                ha="right",
                rotation=90,
                fontsize=7,
                color=INK,
            )
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    title, unit = map(printable, texts)
    axes.set_title(title, fontsize=10, color=INK, loc="left", parse_math=False)
    axes.set_xlabel("photos of a class to learn from, on average", fontsize=8, color=INK)
    axes.set_ylabel(unit, fontsize=8, color=INK)
    tidy(axes, 8)
    return save_png(figure, path)
