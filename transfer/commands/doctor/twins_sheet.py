"""Images that show the same picture, or nearly, side by side."""

from __future__ import annotations

from pathlib import Path

from datamodules.doctor.diagnosis import Diagnosis
from datamodules.doctor.twins import Gallery
from transfer.commands.picture_sheet import Cell, draw_sheet, shorten

SHEET = "twins.png"
_MOST_PAIRS, _COLUMNS = 40, 4


def draw_twins(diagnosis: Diagnosis, folder: Path) -> Path | None:
    """Write the first 40 pairs of twins to twins.png and return its path; None if there are none.

    Pairs come first whose images lie in different splits, then those of different classes, then near ones before equal
    ones. Of several equal images, two stand for all: if they can, of different splits, or of different classes.
    """
    gallery = diagnosis.gallery
    near = zip(diagnosis.near.groups, diagnosis.near.distance, strict=True)
    pairs = [(first, second, f"near, {bits} bits apart") for (first, second), bits in near]
    pairs += [(group[0], _most_different(group, gallery), "equal") for group in diagnosis.exact.groups]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: _likeness(gallery, pair[0], pair[1]))
    draw_sheet((_cell(gallery, *pair) for pair in pairs[:_MOST_PAIRS]), _COLUMNS, folder / SHEET)
    return folder / SHEET


def _likeness(gallery: Gallery, first: int, second: int) -> tuple[bool, bool]:
    """Return whether two images are in the same split, and of the same class."""
    return gallery.split(first) == gallery.split(second), gallery.label(first) == gallery.label(second)


def _most_different(group: list[int], gallery: Gallery) -> int:
    return min(group[1:], key=lambda image: _likeness(gallery, group[0], image))


def _cell(gallery: Gallery, first: int, second: int, how: str) -> Cell:
    both = (first, second)
    titles = (f"{gallery.split(image)}: {shorten(gallery.label(image), 18)}" for image in both)
    names = (shorten(Path(gallery.name(image)).name, 26) for image in both)
    return Cell(tuple(map(gallery.pixels, both)), f"{'   |   '.join(titles)}\n{how}", "   |   ".join(names))
