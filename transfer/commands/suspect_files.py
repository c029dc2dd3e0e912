"""Images whose label is doubtful, as a table and as a sheet of pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from transfer.errors import printable
from transfer.files import write_text

if TYPE_CHECKING:
    from transfer.images.decode import Pixels
    from transfer.probe.label_suspects import Suspect

TABLE, SHEET = "suspects.csv", "suspects.png"
_MOST_PICTURES, _COLUMNS = 40, 8
_SIDE = 160  # pixels of a picture


class SuspectRow(TypedDict):
    """An image with a doubtful label, as reports name it."""

    image: str
    label: str
    label_probability: float
    suggested: str
    suggested_probability: float


def name_suspects(
    suspects: Iterable[Suspect], class_names: Sequence[str], image_name: Callable[[int], str]
) -> list[SuspectRow]:
    """Return suspects with the names of their images and classes."""
    return [
        SuspectRow(
            image=image_name(one.image),
            label=class_names[one.label],
            label_probability=round(one.label_probability, 4),
            suggested=class_names[one.suggested],
            suggested_probability=round(one.suggested_probability, 4),
        )
        for one in suspects
    ]


def write_suspects(rows: Sequence[SuspectRow], pixels: Callable[[int], Pixels], folder: Path) -> list[Path]:
    """Write suspects.csv and the pictures of the first 40 to suspects.png; return their paths.

    Args:
        rows: worst first; of none there is no picture.
        pixels: returns the picture of a row, by its index.
        folder: where the files go.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(SuspectRow.__annotations__))
    table.writeheader()
    table.writerows(rows)
    write_text(folder / TABLE, text.getvalue())
    if not rows:
        return [folder / TABLE]
    shown = rows[:_MOST_PICTURES]
    _draw_sheet(shown, [pixels(index) for index in range(len(shown))], folder / SHEET)
    return [folder / TABLE, folder / SHEET]


def _draw_sheet(rows: Sequence[SuspectRow], pictures: Iterable[Pixels], path: Path) -> None:
    """Draw the pictures, eight in a row; above each its label and the suggested one, below its file's name."""
    from matplotlib.figure import Figure
    from PIL import Image

    from transfer.experiments.drawing import DPI, INK, save_png

    columns = min(_COLUMNS, len(rows))
    num_rows = -(-len(rows) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.9 * num_rows), dpi=DPI)
    figure.subplots_adjust(0.01, 0.06 / num_rows, 0.99, 1 - 0.18 / num_rows, wspace=0.08, hspace=0.4)
    for number, (row, pixels) in enumerate(zip(rows, pictures, strict=True)):
        axes = figure.add_subplot(num_rows, columns, number + 1, xticks=[], yticks=[])
        picture = Image.fromarray(pixels)
        picture.thumbnail((_SIDE, _SIDE))
        axes.imshow(picture)
        axes.spines[:].set_visible(False)
        label, suggested = (_short(name, 22) for name in (row["label"], row["suggested"]))
        title = f"{label} {row['label_probability']:.2f}\n-> {suggested} {row['suggested_probability']:.2f}"
        axes.set_title(title, fontsize=6, color=INK, parse_math=False)
        axes.set_xlabel(_short(Path(row["image"]).name, 26), fontsize=4.5, color=INK, labelpad=2, parse_math=False)
    save_png(figure, path)


def _short(text: str, most: int) -> str:
    """Return printable text with the middle of a long one left out."""
    text = printable(text).replace("\n", " ")
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"
