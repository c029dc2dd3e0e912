"""The results of a table beside the published ones: text, tables of numbers and pictures."""

from __future__ import annotations

from pathlib import Path

from transfer.experiments.table.averages import average_results
from transfer.experiments.table.differences import compare_settings
from transfer.experiments.table.entries import read_entries
from transfer.experiments.table.results import table_results
from transfer.experiments.table.verdicts import table5_lines
from transfer.files import expanded, write_text

DIFFERENCES = "report_differences.csv"


def write_report(table_dir: str | Path) -> list[Path]:
    """Write the report of a table into its folder, whether it is finished or not, and return the files' paths.

    The files are `report.md`, `report.csv` (a line for each dataset, backbone and protocol), `report_seeds.csv` (for
    each seed), `report_differences.csv` (for each two settings that are compared, if any are) and `report.tex`;
    `figure6.png` once a cell is done, and `table5.png` if the table has a cell of the paper's Table 5, each also as
    `.svg` and `.pdf`.

    Raises:
        MissingData: not a table.
        DamagedFile: its plan cannot be read.
    """
    from transfer.experiments.table.csv_files import csv_differences, csv_report, csv_seeds
    from transfer.experiments.table.figures import draw_figure6, draw_table5
    from transfer.experiments.table.latex import latex_report
    from transfer.experiments.table.markdown import markdown_report

    table_dir = expanded(table_dir)
    results = table_results(read_entries(table_dir))
    lines, averages = table5_lines(results), average_results(results)
    comparisons = compare_settings(table_dir, results)
    texts = {
        "report.md": markdown_report(table_dir.resolve().name, results, lines, comparisons, averages),
        "report.csv": csv_report(results, lines),
        "report_seeds.csv": csv_seeds(results),
        **({DIFFERENCES: csv_differences(comparisons)} if comparisons else {}),
        "report.tex": latex_report(results, comparisons, averages),
    }
    if not comparisons:
        (table_dir / DIFFERENCES).unlink(missing_ok=True)  # of an earlier report, which the page would show
    written = []
    for name, text in texts.items():
        write_text(table_dir / name, text)
        written.append(table_dir / name)
    if lines:
        written += draw_table5(lines, table_dir / "table5.png")
    if any(result.done for result in results):
        written += draw_figure6(results, table_dir / "figure6.png")
    return written
