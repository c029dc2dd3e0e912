"""The results of a table beside the published ones: report.md, report.csv, table5.png and figure6.png."""

from __future__ import annotations

from pathlib import Path

from transfer.experiments.table.entries import read_entries
from transfer.experiments.table.results import table_results
from transfer.experiments.table.verdicts import table5_lines
from transfer.files import expanded, write_text


def write_report(table_dir: str | Path) -> list[Path]:
    """Write the report of a table into its folder, whether it is finished or not, and return the files' paths.

    The files are `report.md` and `report.csv`, `figure6.png` once a cell is done, and `table5.png` if the table has a
    cell of the paper's Table 5.

    Raises:
        MissingData: not a table.
        DamagedFile: its plan cannot be read.
    """
    from transfer.experiments.table.figures import draw_figure6, draw_table5
    from transfer.experiments.table.markdown import csv_report, markdown_report

    table_dir = expanded(table_dir)
    results = table_results(read_entries(table_dir))
    lines = table5_lines(results)
    texts = {
        "report.md": markdown_report(table_dir.resolve().name, results, lines),
        "report.csv": csv_report(results, lines),
    }
    written = []
    for name, text in texts.items():
        write_text(table_dir / name, text)
        written.append(table_dir / name)
    if lines:
        written.append(draw_table5(lines, table_dir / "table5.png"))
    if any(result.done for result in results):
        written.append(draw_figure6(results, table_dir / "figure6.png"))
    return written
