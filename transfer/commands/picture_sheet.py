"""A sheet of small pictures with a few words above and below each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.errors import printable

if TYPE_CHECKING:
    from transfer.images.decode import Pixels

SIDE = 160  # pixels of a picture
_GAP = 6


@dataclass(frozen=True)
class Cell:
    """A place of the sheet.

    Attributes:
        pictures: one picture, or several that stand side by side, uint8 RGB (H, W, 3) each.
        above, below: lines of text.
    """

    pictures: tuple[Pixels, ...]
    above: str
    below: str


def draw_sheet(cells: Iterable[Cell], columns: int, path: Path) -> None:
    """Draw at least one cell, `columns` in a row, into a PNG file, 225 pixels wide for each picture."""
    from matplotlib.figure import Figure

    from transfer.experiments.drawing import DPI, INK, save_png

    shown = list(cells)
    columns = min(columns, len(shown))
    num_rows, abreast = -(-len(shown) // columns), max(len(cell.pictures) for cell in shown)
    figure = Figure(figsize=(1.5 * abreast * columns, 1.9 * num_rows), dpi=DPI)
    figure.subplots_adjust(0.01, 0.06 / num_rows, 0.99, 1 - 0.18 / num_rows, wspace=0.08, hspace=0.4)
    for number, cell in enumerate(shown):
        axes = figure.add_subplot(num_rows, columns, number + 1, xticks=[], yticks=[])
        axes.imshow(_side_by_side(cell.pictures))
        axes.spines[:].set_visible(False)
        axes.set_title(cell.above, fontsize=6, color=INK, parse_math=False)
        axes.set_xlabel(cell.below, fontsize=4.5, color=INK, labelpad=2, parse_math=False)
    save_png(figure, path)


def shorten(text: str, most: int) -> str:
    """Return printable text with the middle of a long one left out."""
    text = printable(text).replace("\n", " ")
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"


def _side_by_side(pictures: tuple[Pixels, ...]) -> Pixels:
    """Return pictures as one, each fitted into a square; a single one as it is."""
    import numpy as np
    from PIL import Image

    small = []
    for pixels in pictures:
        picture = Image.fromarray(pixels)
        picture.thumbnail((SIDE, SIDE))
        small.append(picture)
    if len(small) == 1:
        return np.asarray(small[0])
    sheet = Image.new("RGB", (len(small) * (SIDE + _GAP) - _GAP, SIDE), "white")
    for place, picture in enumerate(small):
        sheet.paste(picture, (place * (SIDE + _GAP) + (SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return np.asarray(sheet)
