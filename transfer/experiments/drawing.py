"""How the pictures of reports look; drawn by matplotlib without a display."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from transfer.files import written_whole
from transfer.statistics import Mean

# Okabe & Ito's palette, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, PINK, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
INK, GREY, FAINT = "#222222", "#9a9a9a", "#d9d9d9"
DPI = 150
# What matplotlib writes into a file besides the picture, and would change with the day and its version.
_METADATA: Mapping[str, Mapping[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


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


def distances(mean: Mean) -> list[list[float]] | None:
    """Return how far an interval reaches below and above its mean, as matplotlib takes it; None without an interval."""
    return None if mean.low is None or mean.high is None else [[mean.value - mean.low], [mean.high - mean.value]]


def save_png(figure: Figure, path: Path) -> Path:
    """Write a picture as PNG, whole or not at all, and return its path."""
    return _save(figure, path, "png", _METADATA["png"])


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a picture as PNG, SVG and PDF, each whole or not at all, and return their paths.

    The files hold no date: the same figure is the same bytes. A PDF embeds its fonts as TrueType, as journals ask.

    Args:
        figure: the picture.
        path: of the PNG; the others have its name with their own endings.
    """
    with rc_context({"svg.hashsalt": path.stem, "pdf.fonttype": 42}):
        return [_save(figure, path.with_suffix(f".{kind}"), kind, metadata) for kind, metadata in _METADATA.items()]


def _save(figure: Figure, path: Path, kind: str, metadata: Mapping[str, None]) -> Path:
    with warnings.catch_warnings(), written_whole(path) as file:
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box in place of a letter that no font has
        figure.savefig(file, format=kind, metadata=dict(metadata))
    return path
