"""Images whose label is doubtful, as a table and as a sheet of pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from transfer.commands.picture_sheet import Cell, draw_sheet, shorten
from transfer.files import write_text

if TYPE_CHECKING:
    from transfer.images.decode import Pixels
    from transfer.probe.label_suspects import Suspect

TABLE, SHEET = "suspects.csv", "suspects.png"
_MOST_PICTURES, _COLUMNS = 40, 8


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
    draw_sheet((_cell(row, pixels(index)) for index, row in enumerate(shown)), _COLUMNS, folder / SHEET)
    return [folder / TABLE, folder / SHEET]


def _cell(row: SuspectRow, pixels: Pixels) -> Cell:
    label, suggested = (shorten(name, 22) for name in (row["label"], row["suggested"]))
    above = f"{label} {row['label_probability']:.2f}\n-> {suggested} {row['suggested_probability']:.2f}"
    return Cell((pixels,), above, shorten(Path(row["image"]).name, 26))
