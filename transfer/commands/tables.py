"""Tables in the terminal, of which nothing is cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_WIDEST = 2000  # characters of a row in a file, which has no edge


def print_table(*tables: Table) -> None:
    """Print tables: what they hold is data, in which no markup is read.

    Columns that may wrap are fitted to the terminal. Where the others alone are wider, the terminal breaks their rows.
    """
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(markup=False, highlight=False, emoji=False)
    edge = console.width if console.is_terminal else _WIDEST
    console.width = _WIDEST
    for table in tables:
        found = Measurement.get(console, console.options, table)
        least = found.maximum if all(column.no_wrap for column in table.columns) else found.minimum
        console.print(table, width=max(edge, least))
