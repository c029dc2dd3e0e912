"""The planned cells of a table's folder and the result of each, as a report reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transfer.errors import DamagedFile, MissingData
from transfer.files import expanded

TABLE, CELLS, RESULT = "table.json", "cells", "result.json"


@dataclass(frozen=True)
class Entry:
    """A planned cell: one seed of a backbone on a dataset by a protocol.

    Attributes:
        id: name of its folder below `cells`.
        dataset, backbone, protocol, seed: see `transfer.experiments.table.cells.Cell`.
        status: whether it was run, and ended well.
        result: content of its result.json; empty before it was run.
    """

    id: str
    dataset: str
    backbone: str
    protocol: str
    seed: int
    status: Literal["done", "failed", "not run"]
    result: Mapping[str, Any]

    def accuracy(self, metric: str) -> float | None:
        """Return a metric on the test split in percent, or None if it was not measured."""
        metrics = self.result.get("metrics") or {}
        value = (metrics.get("test") or {}).get(metric)
        return None if value is None else 100 * value


def read_entries(table_dir: str | Path) -> list[Entry]:
    """Read all cells of a table in the order of its plan.

    A damaged result counts as failed, so that the others can be reported.

    Raises:
        UserError: not a table, or its plan is damaged.
    """
    table_dir = expanded(table_dir)
    try:
        cells = json.loads((table_dir / TABLE).read_text())["cells"]
        return [_read_entry(table_dir, **{name: cell[name] for name in _IDENTITY}) for cell in cells]
    except FileNotFoundError:
        raise MissingData(f"{table_dir} is not a table: it has no {TABLE}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedFile(f"{table_dir / TABLE}: damaged ({error!r}); plan the table anew") from None


_IDENTITY = ("id", "dataset", "backbone", "protocol", "seed")


def _read_entry(table_dir: Path, id: str, dataset: str, backbone: str, protocol: str, seed: int) -> Entry:
    path = table_dir / CELLS / id / RESULT
    status: Literal["done", "failed", "not run"] = "not run"
    result: dict[str, Any] = {}
    if path.exists():
        try:
            result = json.loads(path.read_text())
            status = {"done": "done", "failed": "failed"}[result["status"]]  # type: ignore[assignment]
        except (ValueError, TypeError, KeyError):
            status, result = "failed", {"error": f"{RESULT} is damaged"}
    return Entry(id, dataset, backbone, protocol, seed, status, result)
