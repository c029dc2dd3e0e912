"""Tables in Markdown, and text escaped for Markdown and CSV."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

from transfer.errors import printable


def escape_markdown(text: str) -> str:
    """Return the text as one line in which neither Markdown nor HTML recognises markup."""
    line = html.escape(printable(" ".join(text.split())), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", line)


def escape_csv(text: str) -> str:
    """Return the text as one line for a cell; see `harmless_cell`."""
    return harmless_cell(" ".join(text.split()))


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
