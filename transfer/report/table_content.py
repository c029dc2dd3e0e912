"""What a table's folder holds, for the page about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transfer.experiments.table.entries import Entry, read_entries
from transfer.experiments.table.results import Result, table_results
from transfer.experiments.table.verdicts import (
    Status,
    Table5Line,
    published_of,
    remaining_notes,
    status,
    table5_lines,
)
from transfer.paper import Published
from transfer.report.layout import find_link
from transfer.run_files import REPORT


@dataclass(frozen=True)
class Row:
    """A result beside the published one.

    Attributes:
        result: all seeds of a dataset, backbone and protocol.
        published: what its protocol's own paper prints; None if nothing.
        status: what became of it.
    """

    result: Result
    published: Published | None
    status: Status

    @property
    def notes(self) -> list[str]:
        """What a reader must know, without what the status says already."""
        return remaining_notes(self.result, self.status)


@dataclass(frozen=True)
class TableContent:
    """A table as its page sees it.

    Attributes:
        folder: its folder.
        place: the folder that the page goes into.
        entries: its cells, in the order of the plan.
    """

    folder: Path
    place: Path
    entries: list[Entry]

    @cached_property
    def results(self) -> list[Result]:
        """The seeds of a cell combined, the paper's datasets first."""
        return table_results(self.entries)

    @cached_property
    def rows(self) -> list[Row]:
        """The results beside the published ones."""
        return [Row(result, published_of(result), status(result)) for result in self.results]

    @cached_property
    def table5(self) -> list[Table5Line]:
        """The cells of the paper's Table 5; empty if the table has none of them."""
        return table5_lines(self.results)

    def count(self, kind: str) -> int:
        """Return the number of cells that are `done`, `failed` or `not run`."""
        return sum(entry.status == kind for entry in self.entries)

    def final_page(self, entry: Entry) -> str | None:
        """Return the address of the page about a cell's final run; None without one inside the table's folder."""
        run = entry.result.get("final_run")
        if not isinstance(run, str):
            return None
        page = self.folder / run / REPORT
        inside = page.resolve().is_relative_to(self.folder.resolve())
        return find_link(page, self.place) if inside else None


def read_table_content(folder: Path, place: Path) -> TableContent:
    """Return what a table's folder holds, whether the table is finished or not.

    Args:
        folder: the folder.
        place: the folder that the page goes into.

    Raises:
        MissingData: it is no table.
        DamagedFile: its plan cannot be read.
    """
    return TableContent(folder, place, read_entries(folder))
