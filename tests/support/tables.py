"""Cells and a grid for the tests of a table."""

from __future__ import annotations

from pathlib import Path

from transfer.experiments.table.cell_run import cell_job
from transfer.experiments.table.cells import Cell, Table

GRID = {"optim.lr": [0.1, 0.01, 0.001], "optim.weight_decay": [0.0]}
STUB = Path(__file__).with_name("stub_finetune.py")


def make_cell(seed: int = 0, protocol: str = "kornblith") -> Cell:
    return Cell(
        id=f"digits_lite0_{protocol}_{seed}", dataset="digits", backbone="lite0", protocol=protocol, seed=seed,
        image_size=64, num_images=1437, num_parameters=3_371_008, max_batch_per_device=64,
    )  # fmt: skip


def run_cell(
    folder: Path, table: Table, cell: Cell, devices: int = 1, retry_failed: bool = False, fork: bool = False
) -> str:
    """Bring a cell to its result and return its status."""
    job = cell_job(folder, table, cell, devices)
    status: str = job.complete(folder, f"efficientnet-transfer table run {folder}", retry_failed, fork)["status"]
    return status
