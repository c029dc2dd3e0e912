"""What the planned cells of a table will cost: steps, device-hours, memory and disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.config.choices import share_batch
from transfer.experiments.halving import describe_search, plan_rounds
from transfer.experiments.table.cell_run import run_configuration
from transfer.experiments.table.cells import Cell, Table
from transfer.experiments.table.planning import cell_trials, meta_classifier, parse, step_memory
from transfer.experiments.table.probe_cells import get_cell_protocol, is_probe, probe_configuration
from transfer.progressive import pixel_share

if TYPE_CHECKING:
    from transfer.costs.speed import Speed

_BYTES_ON_DISK = 48  # of a cell's checkpoints, for each parameter of the backbone


@dataclass(frozen=True)
class Estimate:
    """What the cells that differ only by their seed will cost together.

    Attributes:
        cells: the cells.
        steps: optimizer steps of each cell.
        hours: device-hours; not a number where the speed is unknown.
        memory: GiB of a device.
        disk: GiB of checkpoints.
        search: how the trials are searched, in words.
        measured_on: device that the speed was measured on; None where it is unknown.
    """

    cells: tuple[Cell, ...]
    steps: int
    hours: float
    memory: float
    disk: float
    search: str
    measured_on: str | None


def estimate_costs(folder: Path, table: Table, given: Sequence[Speed]) -> Iterator[Estimate]:
    """Yield the cost of each dataset, backbone and protocol of a table, in the order of the plan.

    Speeds that are unknown are measured here, which takes seconds each, and kept in the table's folder.

    Args:
        folder: folder of the table.
        table: the table.
        given: speeds that need not be measured.
    """
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in table.cells:
        groups.setdefault((cell.dataset, cell.backbone, cell.protocol), []).append(cell)
    for cells in groups.values():
        yield (_estimate_probe if is_probe(cells[0]) else _estimate)(folder, table, given, cells)


def _estimate_probe(folder: Path, table: Table, given: Sequence[Speed], cells: Sequence[Cell]) -> Estimate:
    """Return the cost of a probe's features: a forward pass takes a third of a training step's multiply-adds."""
    from transfer.costs.memory import inference_memory
    from transfer.costs.speed import find_speed, hours

    cell = cells[0]
    batch_size = probe_configuration(cell, table, 1)["data.batch_size"]
    speed = find_speed(folder, given, cell.backbone, cell.image_size, cell.max_batch_per_device, table.on_cpu)
    return Estimate(
        cells=tuple(cells),
        steps=0,
        hours=hours(cell.num_images / 3, speed) * len(cells),
        memory=inference_memory(meta_classifier(cell.backbone), cell.image_size, batch_size) / 2**30,
        disk=len(cells) * 4 * cell.num_parameters / 2**30,
        search="full grid",
        measured_on=None if speed is None else speed.measured_on,
    )


def _estimate(folder: Path, table: Table, given: Sequence[Speed], cells: Sequence[Cell]) -> Estimate:
    from transfer.costs.speed import find_speed, hours

    cell, trials = cells[0], cell_trials(table, cells[0])
    fit, _ = share_batch(parse(run_configuration(cell, table, trials[0], 1, final=True)), frozenset(), 1)
    steps = fit.trainer.max_steps
    rounds = plan_rounds(len(trials), steps, table.budget_steps)
    all_steps = steps + sum(current.size * current.steps for current in rounds)
    speed = find_speed(folder, given, cell.backbone, cell.image_size, cell.max_batch_per_device, table.on_cpu)
    batch = fit.data.batch_size * fit.trainer.accumulate_grad_batches
    on_gpu = speed is not None and "cores" not in speed.measured_on
    images = all_steps * batch * (1 if fit.progressive is None else pixel_share(fit.progressive, cell.image_size))
    memory = step_memory(cell.backbone, cell.image_size, on_gpu).total(fit.data.batch_size) / 2**30
    grid = table.grid if len(get_cell_protocol(cell.protocol).grid) > 1 else {}
    return Estimate(
        cells=tuple(cells),
        steps=all_steps,
        hours=hours(images, speed) * len(cells),
        memory=memory,
        disk=len(cells) * _BYTES_ON_DISK * cell.num_parameters / 2**30,
        search=describe_search(len(trials), steps, grid, table.budget_steps),
        measured_on=None if speed is None else speed.measured_on,
    )
