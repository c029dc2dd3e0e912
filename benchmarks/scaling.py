"""The compound rule against the released coefficients."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def benchmark_scaling() -> dict[str, Any]:
    """Return where the released coefficients depart from the rule, and multiply-adds beside the printed ones."""
    from transfer.costs.published import departures, table_counts

    return {
        "departures": [asdict(row) for row in departures()],
        "table3": [asdict(row) for row in table_counts("table3")],
        "table7": [asdict(row) for row in table_counts("table7")],
    }
