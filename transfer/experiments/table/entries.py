"""The planned cells of a table's folder and the result of each, as a report reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt
from typing_extensions import TypedDict

from transfer.errors import DamagedFile, MissingData
from transfer.experiments.records import FileName
from transfer.files import read_object
from transfer.records import checked

TABLE, CELLS, RESULT = "table.json", "cells", "result.json"
FINAL = "final"  # folder of a cell's run that is tested

Share = Annotated[float, Field(ge=0, le=1)]


class Accuracies(TypedDict, total=False):
    """The metrics of a split that a report shows; there are others."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    top1: Share
    mean_per_class: Share
    map: Share
    map_11: Share


class Measured(TypedDict):
    """The metrics of the final fit on test, and of the chosen trial on val."""

    test: Accuracies
    val: NotRequired[dict[str, float] | None]


class Weights(TypedDict):
    """Where the network started, as far as a report reads it."""

    trained_on: NotRequired[str | None]


class Hardware(TypedDict):
    """What the final fit was computed on, as far as a report reads it."""

    gpus: NotRequired[list[str]]


class CellResult(TypedDict, total=False):
    """Content of result.json, as far as a report reads it; a failed cell has `error` and little else."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    status: Required[Literal["done", "failed"]]
    metrics: Measured | None
    quoted_metric: str | None
    num_parameters_without_classifier: PositiveInt | None
    image_size: PositiveInt | None
    decay: dict[str, str] | None
    copy: str | None
    data_note: str | None
    skipped_images: NonNegativeInt | None
    seen_test_images: NonNegativeInt | None
    chosen: dict[str, Any] | None
    num_trials: NonNegativeInt | None
    steps: NonNegativeInt | None
    search: str | None
    overrides: dict[str, Any] | None
    weights: Weights | None
    test_reads: NonNegativeInt | None
    train_seconds: float | None
    gpu_hours: float | None
    hardware: Hardware | None
    versions: dict[str, str | None] | None
    git_commit: str | None
    error: str | None


class _Planned(TypedDict):
    """A cell of table.json, as far as a report reads it."""

    id: FileName
    dataset: str
    backbone: str
    protocol: str
    seed: NonNegativeInt
    image_size: NotRequired[PositiveInt]


class _Plan(TypedDict):
    cells: list[_Planned]


@dataclass(frozen=True)
class Entry:
    """A planned cell: one seed of a backbone on a dataset by a protocol.

    Attributes:
        id: name of its folder below `cells`.
        dataset, backbone, protocol, seed: see `transfer.experiments.table.cells.Cell`.
        status: whether it was run, and ended well.
        image_size: side of the images in pixels; None if nobody wrote it down.
        result: content of its result.json; empty before it was run.
    """

    id: str
    dataset: str
    backbone: str
    protocol: str
    seed: int
    status: Literal["done", "failed", "not run"]
    image_size: int | None
    result: Mapping[str, Any]

    def accuracy(self, metric: str, split: Literal["test", "val"] = "test") -> float | None:
        """Return a metric on a split in percent, or None if it was not measured."""
        metrics = self.result.get("metrics") or {}
        value = (metrics.get(split) or {}).get(metric)
        return None if value is None else 100 * value

    @property
    def error(self) -> str:
        """Why it failed, in the words of what failed."""
        return str(self.result.get("error") or "no reason given").strip()


def read_entries(table_dir: str | Path) -> list[Entry]:
    """Read all cells of a table in the order of its plan.

    A damaged result counts as failed, so that the others can be reported.

    Raises:
        MissingData: not a table.
        DamagedFile: its plan cannot be read.
    """
    path = Path(table_dir) / TABLE
    if not path.is_file():
        raise MissingData(f"{table_dir} is not a table: it has no {TABLE}")
    cells = checked(read_object(path), _Plan, path)["cells"]
    check_distinct([cell["id"] for cell in cells], path)
    return [_read_entry(Path(table_dir), cell) for cell in cells]


def check_distinct(ids: Sequence[str], path: Path) -> None:
    """Check that no cell is planned twice, which would count as two seeds.

    Raises:
        DamagedFile: one is.
    """
    if twice := [name for name, count in Counter(ids).items() if count > 1]:
        raise DamagedFile(f"{path}: damaged: cell {twice[0]} is planned twice")


def _read_entry(table_dir: Path, cell: _Planned) -> Entry:
    path = table_dir / CELLS / cell["id"] / RESULT
    status: Literal["done", "failed", "not run"] = "not run"
    result: dict[str, Any] = {}
    if path.exists():
        try:
            result = read_object(path)
            status = checked(result, CellResult, path)["status"]
        except (DamagedFile, MissingData) as error:
            status, result = "failed", {"error": str(error)}
    return Entry(
        cell["id"],
        cell["dataset"],
        cell["backbone"],
        cell["protocol"],
        cell["seed"],
        status,
        result.get("image_size") or cell.get("image_size"),
        result,
    )
