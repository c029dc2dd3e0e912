"""Keep of a finished table what its report reads: python -m benchmarks ledger --table DIR --ledger DIR

The ledger is a table of its own without the runs: the plan, each cell's result and, without probabilities, its
predictions of the test images. `efficientnet-transfer table report LEDGER` reproduces the report from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from transfer.errors import BadValue
from transfer.files import expanded, write_json, written_whole


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_ledger`."""
    parser.add_argument("--table", type=expanded, required=True, metavar="DIR", help="a table whose cells are done")
    parser.add_argument("--ledger", type=expanded, required=True, metavar="DIR", help="folder to write")


def benchmark_ledger(table: Path, ledger: Path) -> dict[str, Any]:
    """Write a ledger and return its accuracies in percent and its size.

    Images are named by their path below the table's `data_root`, which is left out.

    Args:
        table: folder of a table.
        ledger: folder to write; files that it has are replaced.

    Raises:
        UserError: it is no table, or a cell is not done.
    """
    from transfer.experiments.table.cells import cell_dir, read_table, table_content
    from transfer.experiments.table.entries import RESULT, TABLE, read_entries
    from transfer.files import read_object
    from transfer.run_files import PREDICTIONS
    from transfer.runs.test_record import read_predictions

    plan, entries = read_table(table), read_entries(table)
    if unfinished := [entry.id for entry in entries if entry.status != "done"]:
        raise BadValue(f"`table`={table}: not done: {', '.join(unfinished)} (efficientnet-transfer table run {table})")
    root = "" if plan.data_root is None else f"{plan.data_root}/"
    for cell in plan.cells:
        saved = read_predictions(cell_dir(table, cell) / "final")
        place = cell_dir(ledger, cell)
        (place / "final").mkdir(parents=True, exist_ok=True)
        with written_whole(place / "final" / PREDICTIONS) as file:
            np.savez_compressed(
                file,
                label=saved.labels,
                prediction=saved.predictions,
                path=np.array([path.removeprefix(root) for path in saved.paths]),
                class_name=np.array(saved.class_names),
            )
        write_json(place / RESULT, read_object(cell_dir(table, cell) / RESULT))
    write_json(ledger / TABLE, {**table_content(plan), "data_root": None})
    return {
        "accuracies": {entry.id: entry.accuracy(entry.result["quoted_metric"]) for entry in entries},
        "bytes": sum(file.stat().st_size for file in ledger.rglob("*") if file.is_file()),
    }
