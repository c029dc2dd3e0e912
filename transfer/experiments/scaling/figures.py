"""How the pictures of studies look; drawn by matplotlib without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

# Okabe & Ito's palette, as in the table's figures.
COLOURS, INK, FAINT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "#222222", "#d9d9d9"


def tidy(axes: Any) -> None:
    """Small labels, a faint grid, no frame."""
    axes.tick_params(labelsize=7, colors=INK)
    axes.grid(color=FAINT, lw=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_png(figure: Figure, path: Path) -> Path:
    """Writes the picture, whole or not at all, and gives its path."""
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, format="png", metadata={"Software": None})
    return temporary.replace(path)
