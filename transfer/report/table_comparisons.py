"""The sections of a table's page that set its own settings against each other: averages, and differences."""

from __future__ import annotations

from typing import Any

from transfer.errors import UserError
from transfer.experiments.table.averages import average_results
from transfer.experiments.table.report import DIFFERENCES
from transfer.files import read_rows
from transfer.report.layout import Context
from transfer.report.metric_sections import metric_name
from transfer.report.table_content import TableContent


def averages_section(content: TableContent) -> Context:
    """Return the accuracy of each backbone and protocol, averaged over the datasets that it was run on."""
    averages = average_results(content.results)
    return {"averages": averages} if averages else None


def differences_section(content: TableContent) -> Context:
    """Return which settings are better than which, as the table's report has compared them last."""
    path = content.folder / DIFFERENCES
    if not path.exists():
        return None
    try:
        return {"rows": [_comparison(row) for row in read_rows(path)], "remark": ""}
    except UserError as error:
        return {"rows": [], "remark": str(error)}
    except (KeyError, ValueError) as error:
        return {"rows": [], "remark": f"{path}: damaged: {error}"}


def _comparison(row: dict[str, str]) -> dict[str, Any]:
    """Return a line of report_differences.csv as the page shows it; differences are in points.

    Raises:
        KeyError, ValueError: it is none.
    """
    datasets, seeds = row["datasets"].split(), (row["seeds_a"], row["seeds_b"])
    found = bool(row["difference"])
    return {
        "datasets": datasets[0] if len(datasets) == 1 else f"average over {len(datasets)} datasets",
        "metrics": " and ".join(map(metric_name, row["metrics"].split())),
        "settings": [f"{row[f'backbone_{one}']}, {row[f'protocol_{one}']}" for one in "ab"],
        "seeds": f"{seeds[0]} seeds in pairs" if row["paired"] == "True" else f"{' and '.join(seeds)} seeds",
        "difference": {name: float(row[name]) for name in ("difference", "low", "high")} if found else None,
        "p": f"{float(row['p_value_holm']):.2g}" if found else "",
        "verdict": row["verdict"],
        "reason": row["reason"],
    }
