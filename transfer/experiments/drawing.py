"""How the pictures of reports look; drawn by matplotlib without a display."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from transfer.files import written_whole

# Okabe & Ito's palette, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, PINK, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
INK, GREY, FAINT = "#222222", "#9a9a9a", "#d9d9d9"
DPI = 150


def tidy(axes: Any, label_size: int) -> None:
    """Give axes small labels, a faint grid and no frame.

    Args:
        axes: matplotlib's axes.
        label_size: size of the tick labels in points.
    """
    axes.tick_params(labelsize=label_size, colors=INK)
    axes.grid(color=FAINT, lw=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_png(figure: Figure, path: Path) -> Path:
    """Write a picture, whole or not at all, and return its path."""
    with warnings.catch_warnings(), written_whole(path) as file:
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box in place of a letter that no font has
        figure.savefig(file, format="png", metadata={"Software": None})
    return path
