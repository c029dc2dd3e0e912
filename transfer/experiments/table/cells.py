"""The planned cells, which table.json holds, and where the files of each lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from transfer.errors import MissingData, unknown_name
from transfer.experiments.jobs import check_same_plan
from transfer.experiments.records import FileName
from transfer.experiments.table.entries import CELLS, TABLE, check_distinct
from transfer.files import read_object
from transfer.networks.user_code import refuse_user_code
from transfer.records import checked

# What decides what a result means; a table has one of each for all its cells.
MEANING = ("pretrained", "set", "grid", "budget_steps", "data_note")


@dataclass(frozen=True)
class Cell:
    """One result to come: a dataset, a backbone, a protocol and a seed.

    Attributes:
        id: name of its folder.
        image_size: side of the input in pixels.
        num_images: images of the dataset's train and val splits.
        num_parameters: parameters of the backbone without the classifier, as the paper counts.
        max_batch_per_device: images that fit on a device.
    """

    id: FileName
    dataset: str
    backbone: str
    protocol: str
    seed: NonNegativeInt
    image_size: PositiveInt
    num_images: PositiveInt
    num_parameters: PositiveInt
    max_batch_per_device: PositiveInt


def own_data_root(dataset: str, data_root: str | None) -> str | None:
    """Return a table's `data_root` for one of its datasets: None for digits, which come with a package."""
    return None if dataset == "digits" else data_root


def own_settings(dataset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table's `set` for one of its datasets: all but birdsnap refuse `allow_decayed`, being complete."""
    return {name: value for name, value in settings.items() if name != "allow_decayed" or dataset == "birdsnap"}


def cell_id(dataset: str, backbone: str, protocol: str, seed: int) -> str:
    """Return the id of a cell, such as `cifar10_b0_kornblith_0`."""
    return f"{dataset}_{backbone}_{protocol}_{seed}"


@dataclass(frozen=True)
class Table:
    """The cells of a table and what holds for all of them; table.json holds the same."""

    cells: tuple[Cell, ...]
    pretrained: bool | str | None = None
    data_root: str | None = None
    data_note: str | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    not_comparable: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, list[Any]] = field(default_factory=dict)
    budget_steps: int | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether the cells leave GPUs alone."""
        return self.set.get("trainer.accelerator") == "cpu"

    def cell(self, name: str) -> Cell:
        """Return the cell with this id.

        Raises:
            BadValue: there is none; the text names the nearest.
        """
        for cell in self.cells:
            if cell.id == name:
                return cell
        raise unknown_name("cell", name, [cell.id for cell in self.cells])


def read_table(folder: Path) -> Table:
    """Read the table that was planned in a folder.

    Raises:
        MissingData: none was.
        DamagedFile: the plan cannot be read.
    """
    path = folder / TABLE
    if not path.is_file():
        raise MissingData(f"{folder} is no table (it has no {TABLE}): efficientnet-transfer table plan {folder} ...")
    table = checked(read_object(path), Table, path)
    check_distinct([cell.id for cell in table.cells], path)
    return table


def open_table(folder: Path, allow_user_code: bool) -> Table:
    """Return the table that was planned in a folder, to compute it.

    Raises:
        UserError: none was, or it names code to import and that is not allowed.
    """
    table = read_table(folder)
    names = [("head", table.set.get("head")), *(("head", name) for name in table.grid.get("head", []))]
    refuse_user_code(folder, [*names, *(("backbone", cell.backbone) for cell in table.cells)], allow_user_code)
    return table


def table_content(table: Table) -> dict[str, Any]:
    """Return the content of table.json, which `read_table` reads."""
    return {**asdict(table), "cells": [asdict(cell) for cell in table.cells]}


def extend(existing: Table, planned: Table, folder: Path) -> Table:
    """Return the existing table with the planned cells that it lacks; its own cells stay as they were planned.

    Raises:
        BadValue: the planned cells would be computed in another way.
    """
    check_same_plan(folder, vars(existing), vars(planned), MEANING)
    known = {cell.id for cell in existing.cells}
    cells = (*existing.cells, *(cell for cell in planned.cells if cell.id not in known))
    return Table(**{**vars(planned), "cells": cells})


def cell_dir(folder: Path, cell: Cell) -> Path:
    """Return the folder of a cell's runs and result."""
    return folder / CELLS / cell.id
