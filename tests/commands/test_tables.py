"""Tables in the terminal: whole in a file and on a narrow terminal, and without markup."""

from __future__ import annotations

import re

import pytest
from rich.table import Table

from transfer.commands.tables import print_table

HEADS = tuple(f"column {number}" for number in range(10))
FIGURES = tuple(f"{1234567.891 + number:.3f}" for number in range(10))


def printed(table: Table, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_table(table)
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]


def figures(**options: bool) -> Table:
    table = Table()
    for head in HEADS:
        table.add_column(head, justify="right", **options)
    table.add_row(*FIGURES)
    return table


@pytest.mark.parametrize("no_wrap", [True, False])
def test_a_file_has_whole_rows(no_wrap: bool, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(figures(no_wrap=no_wrap), capsys)
    assert [cell.strip() for cell in lines[3].strip("│").split("│")] == list(FIGURES)


@pytest.mark.parametrize("no_wrap", [True, False])
def test_no_figure_is_cut_on_a_narrow_terminal(
    no_wrap: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    text = "\n".join(printed(figures(no_wrap=no_wrap), capsys))
    assert all(figure in text for figure in FIGURES) and "…" not in text


def test_a_long_name_is_folded_to_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table("name", "value")
    table.columns[0].overflow = "fold"
    table.add_row("photos " * 12, "0.5")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    lines = printed(table, capsys)
    assert max(map(len, lines)) <= 40 and sum(line.count("photos") for line in lines) == 12


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name")
    table.add_row("[bold]cat[/bold] :smile:")
    assert any("[bold]cat[/bold] :smile:" in line for line in printed(table, capsys))
