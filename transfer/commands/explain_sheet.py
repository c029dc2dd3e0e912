"""All pictures of `explain` on one page, with what the runs say and what the photos' folders say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from transfer.errors import printable
from transfer.files import write_text

if TYPE_CHECKING:
    from jinja2 import Template

_PANEL = 210  # least width of a picture's column on the page, in pixels


@dataclass(frozen=True)
class Answer:
    """What a run says of a photo.

    Attributes:
        run: the run's name.
        predicted: its most probable class.
        probability: probability of that class, in [0, 1].
    """

    run: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class SheetRow:
    """A photo on the page.

    Attributes:
        photo: name of its file.
        source: relative address of its picture.
        size: width and height of the picture, in pixels.
        answers: of each run.
        truth: name of its folder, if that is a class of all runs.
    """

    photo: str
    source: str
    size: tuple[int, int]
    answers: tuple[Answer, ...]
    truth: str | None

    @property
    def is_wrong(self) -> bool:
        """Whether a run says another class than the folder."""
        return self.truth is not None and any(answer.predicted != self.truth for answer in self.answers)


def make_row(
    photo: Path, picture: Path, folder: Path, size: tuple[int, int], answers: Sequence[Answer], classes: set[str]
) -> SheetRow:
    """Return a photo's place on the page.

    Args:
        photo: the file.
        picture: its picture below `folder`, where the page will lie.
        folder: see `picture`.
        size: width and height of the picture, in pixels.
        answers: of each run.
        classes: those that all runs have; none where an image may have several labels.
    """
    truth = photo.absolute().parent.name
    source = quote(os.fsencode(picture.relative_to(folder).as_posix()))
    return SheetRow(str(photo), source, size, tuple(answers), truth if truth in classes else None)


def write_sheet(rows: Sequence[SheetRow], folder: Path) -> Path:
    """Write the page as sheet.html, or if there is one, as sheet_2.html and so on, and return its path.

    Photos of another class than their folder's come first, the surest mistake before others; then the least sure.
    """
    path, number = folder / "sheet.html", 1
    while path.exists():
        number += 1
        path = folder / f"sheet_{number}.html"
    known = [row for row in rows if row.truth is not None]
    lead = f"{len(rows):,} {'photo' if len(rows) == 1 else 'photos'}"
    if known:
        lead += f"; of {len(known):,} in a folder with the name of a class, "
        lead += f"{sum(not row.is_wrong for row in known):,} are given that class"
    runs = ", ".join(answer.run for answer in rows[0].answers)
    page = _template().render(
        title=f"What {runs} looks at",
        lead=lead,
        width=_PANEL * (1 + len(rows[0].answers)),
        rows=sorted(rows, key=_worst_first),
    )
    write_text(path, page)
    return path


def _worst_first(row: SheetRow) -> tuple[bool, float]:
    probability = row.answers[0].probability
    return not row.is_wrong, -probability if row.is_wrong else probability


@cache
def _template() -> Template:
    """Return the page's template, which escapes all that is put into it."""
    from jinja2 import Environment, StrictUndefined

    text = files("transfer.commands").joinpath("explain_sheet.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_finalize)
    return environment.from_string(text)


def _finalize(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
