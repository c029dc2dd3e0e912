"""The tables of real data in `benchmarks/ledger/`, read from their reports' CSV files."""

from __future__ import annotations

import csv

from docs.generate.measurement import BENCHMARKS
from transfer.markdown import escape_markdown

LEDGER = BENCHMARKS / "ledger"


def tables() -> str:
    """Return a table of all results: accuracy with its interval over seeds, and what differs from the protocol."""
    rows = [
        "| Ledger | Network | Protocol | Test top-1, % (95% over seeds) | Seeds | What it is, and what differs |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for path in sorted(LEDGER.glob("*/report.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                top1, low, high = (
                    row[name] and f"{float(row[name]):.1f}" for name in ("top1", "top1_low", "top1_high")
                )
                interval = f" ({low} to {high})" if low else ""
                cells = (path.parent.name, f"`{row['backbone']}`", row["protocol"], top1 + interval)
                rows.append(f"| {' | '.join((*cells, row['seeds_done'], escape_markdown(row['notes'])))} |")
    return "\n".join(rows)
