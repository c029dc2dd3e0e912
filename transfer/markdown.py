"""Tables in Markdown and CSV, and text escaped for both."""

from __future__ import annotations

import csv
import html
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transfer.errors import printable


def escape_markdown(text: str) -> str:
    """Return the text as one line in which neither Markdown nor HTML recognises markup."""
    line = html.escape(printable(" ".join(text.split())), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", line)


def harmless_cell(text: str) -> str:
    """Return text that no spreadsheet reads as a formula and no terminal as a command.

    Text that begins like a formula gets a "'"; characters that cannot be printed become escapes.
    """
    cell = printable(text)
    first = unicodedata.normalize("NFKC", cell[:1])  # a full-width = counts too
    return f"'{cell}" if first and first in "=+-@" else cell


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts that are already Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same names as CSV, empty for none: each text in one line and harmless; see `harmless_cell`."""
    if not rows:
        return ""
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: harmless_cell(" ".join(v.split())) if isinstance(v, str) else v for name, v in row.items()}
        writer.writerow(cells)
    return file.getvalue()
