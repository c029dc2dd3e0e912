"""Tables in Markdown and CSV, with what would break them escaped."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

from transfer.errors import printable


def escape_markdown(text: str) -> str:
    """Text as Markdown and HTML show it: one line, nothing in it is markup."""
    line = html.escape(printable(" ".join(text.split())), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", line)


def escape_csv(text: str) -> str:
    """Text that no spreadsheet takes for a formula: what begins like one gets an apostrophe."""
    line = printable(" ".join(text.split()))
    first = unicodedata.normalize("NFKC", line[:1])  # a full-width = counts too
    return f"'{line}" if first and first in "=+-@" else line


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts that are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
