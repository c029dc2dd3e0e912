"""Which cells a table has, what they will cost, and whether they can work."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.errors import UserError
from transfer.experiments.launchers import computes_on_cpu

if TYPE_CHECKING:
    from transfer.config.schema import FinetuneConfig
    from transfer.costs.memory import TrainingMemory
    from transfer.costs.speed import Speed
    from transfer.experiments.table.cells import Cell, Table
    from transfer.experiments.table.config import TableConfig

_CLASSES = 1000  # of the classifier whose memory is estimated; a few more or less do not matter


def plan_cells(wanted: TableConfig) -> list[Cell]:
    """The cells with what is known of each before it is run.

    Raises:
        UserError: an unknown dataset, backbone or protocol, or data that cannot be had.
    """
    from itertools import product

    from transfer.config.protocols import get_protocol
    from transfer.costs.memory import largest_batch, usable_memory
    from transfer.experiments.table.cells import Cell, cell_id
    from transfer.networks.registry import get_backbone

    memory, of = usable_memory()
    on_gpu = of == "gpu" and wanted.set.get("trainer.accelerator") != "cpu"
    cells = []
    images: dict[str, int] = {}
    batches: dict[tuple[str, int], int] = {}
    for pair, name in product(wanted.pairs(), wanted.protocols):
        variant, protocol = get_backbone(pair.backbone), get_protocol(name)
        if pair.dataset not in images:
            images[pair.dataset] = count_images(pair.dataset, wanted)
        weights = {} if wanted.pretrained is None else {"pretrained": wanted.pretrained}
        size = image_size(pair.dataset, variant.name, {**weights, **protocol.settings, **wanted.set})
        if (variant.name, size) not in batches:
            fits = largest_batch(memory, step_memory(variant.name, size, on_gpu))
            batches[variant.name, size] = max(2, protocol.batch_size if fits is None else fits)
        for seed in wanted.seeds:
            cells.append(
                Cell(
                    id=cell_id(pair.dataset, variant.name, protocol.name, seed),
                    dataset=pair.dataset,
                    backbone=variant.name,
                    protocol=protocol.name,
                    seed=seed,
                    image_size=size,
                    num_images=images[pair.dataset],
                    num_parameters=count_parameters(variant.name),
                    max_batch_per_device=wanted.max_batch_per_device or batches[variant.name, size],
                )
            )
    return cells


@cache
def step_memory(backbone: str, image_size: int, on_gpu: bool) -> TrainingMemory:
    """Of a training step as it runs there: in bf16 on a GPU."""
    import torch

    from transfer.costs.memory import training_memory
    from transfer.weights.build import build_classifier

    with torch.device("meta"):
        classifier = build_classifier(backbone, _CLASSES)
    return training_memory(classifier, image_size, precision="bf16-mixed" if on_gpu else "32-true")


@cache
def count_parameters(backbone: str) -> int:
    """Of the backbone alone, built without memory: a scaled one has no published count."""
    import torch

    from transfer.weights.build import build_backbone

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_backbone(backbone, pretrained=False).parameters())


def count_images(dataset: str, wanted: TableConfig) -> int:
    """Images of train and val: from the data sheet, else from the data.

    Raises:
        UserError: an unknown dataset, or its sheet does not say and the data cannot be read or has no test split.
    """
    from datamodules import get_sheet, load_dataset
    from transfer.config.command_line import parse_config

    sheet = get_sheet(dataset)
    if sheet.num_examples:
        return sum(number for split, number in sheet.num_examples.items() if split != "test")
    root = [] if wanted.data_root is None else [f"--data_root={wanted.data_root}"]
    words = [f"--{name}={value}" for name, value in wanted.set.items() if value is not None]
    data = load_dataset(dataset, **parse_config([f"--dataset={dataset}", *root, *words])[0].read_options())
    if "test" not in data.split_sizes:
        raise UserError(f"{dataset}: a table needs a test split; {wanted.data_root} has {', '.join(data.split_sizes)}")
    return sum(size for split, size in data.split_sizes.items() if split != "test")


def image_size(dataset: str, backbone: str, settings: dict[str, Any]) -> int:
    """Side of a run's input in pixels, as finetune decides it."""
    from datamodules import get_sheet
    from transfer.config.schema import FinetuneConfig
    from transfer.weights.start import resolve_start

    start = resolve_start(
        backbone,
        settings.get("pretrained", FinetuneConfig.pretrained),
        settings.get("init_from"),
        dataset_size=get_sheet(dataset).default_image_size,
        image_size=settings.get("image_size"),
    )
    return start.preprocessing.image_size


def check_configurations(table: Table) -> None:
    """Parses the first trial and the final fit of every cell, whatever its seed, as finetune will.

    Raises:
        UserError: one of them cannot work.
    """
    from transfer.experiments.halving import plan_rungs
    from transfer.experiments.table.cell_run import run_configuration

    by_seed = {(cell.dataset, cell.backbone, cell.protocol): cell for cell in table.cells}
    for cell in by_seed.values():
        trials = cell_trials(table, cell)
        if chosen := sorted(table.set.keys() & trials[0].keys()):
            raise UserError(f"--set {chosen[0]}: the trials of {cell.protocol} choose it; give --grid {chosen[0]}=...")
        for final in (False, True):
            configuration = parse(run_configuration(cell, table, trials[0], 1, final))
        plan_rungs(len(trials), configuration.trainer.max_steps, table.budget_steps)


def cell_trials(table: Table, cell: Cell) -> tuple[Any, ...]:
    """What a cell chooses from."""
    from transfer.config.protocols import get_protocol
    from transfer.experiments.halving import trials_of

    return trials_of(get_protocol(cell.protocol).grid, table.grid)


def parse(fields: dict[str, Any]) -> FinetuneConfig:
    """The configuration that dotted fields make.

    Raises:
        UserError: it cannot work.
    """
    from transfer.config.command_line import parse_config

    return parse_config([f"--{name}={'null' if value is None else value}" for name, value in fields.items()])[0]


def print_plan(out: Path, table: Table, given: Sequence[Speed]) -> None:
    """One line for the cells that differ by their seed alone, and the sums."""
    import math

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Lines

    from transfer.config.protocols import get_protocol
    from transfer.costs.speed import find_speed, hours
    from transfer.experiments.halving import describe_search, plan_rungs
    from transfer.experiments.table.cell_run import run_configuration

    on_cpu = computes_on_cpu(table)
    lines = Lines(title=f"{len(table.cells)} cells in {out}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("dataset", "backbone", "protocol"):
        lines.add_column(column, no_wrap=True)
    for column in ("cells", "px", "steps", "hours", "GiB", "disk"):
        lines.add_column(column, justify="right", no_wrap=True)
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in table.cells:
        groups.setdefault((cell.dataset, cell.backbone, cell.protocol), []).append(cell)
    searches: dict[str, str] = {}
    total_hours, total_disk, places = 0.0, 0.0, set()
    for (dataset, backbone, protocol), cells in groups.items():
        cell, trials = cells[0], cell_trials(table, cells[0])
        fit = parse(run_configuration(cell, table, trials[0], 1, final=True))
        steps = fit.trainer.max_steps
        rungs = plan_rungs(len(trials), steps, table.budget_steps)
        all_steps = steps + sum(rung.size * rung.steps for rung in rungs)
        speed = find_speed(out, given, backbone, cell.image_size, cell.max_batch_per_device, on_cpu)
        batch = fit.data.batch_size * fit.trainer.accumulate_grad_batches
        cost = hours(all_steps * batch, speed) * len(cells)
        on_gpu = speed is not None and "cores" not in speed.measured_on
        memory = step_memory(backbone, cell.image_size, on_gpu).total(fit.data.batch_size) / 2**30
        disk = len(cells) * 48 * cell.num_parameters / 2**30
        grid = table.grid if len(get_protocol(protocol).grid) > 1 else {}
        searches.setdefault(protocol, describe_search(len(trials), steps, grid, table.budget_steps))
        lines.add_row(
            *(dataset, backbone, protocol, str(len(cells)), str(cell.image_size)),
            *(f"{all_steps:,}", "?" if math.isnan(cost) else f"{cost:,.2f}", f"{memory:.1f}", f"{disk:.1f}"),
        )
        total_hours, total_disk = total_hours + cost, total_disk + disk
        if speed is not None:
            places.add(speed.measured_on)
    Console().print(lines)
    for protocol, search in searches.items():
        print(f"search of {protocol}: {search}")
    print("hours: of one device, for all cells of the line; GiB: memory of a device; disk: GiB of checkpoints")
    print(f"{total_hours:,.2f} device-hours, {total_disk:.1f} GiB on disk (the data is not counted)")
    print(f"from the speed of training steps alone, on {'; '.join(sorted(places))}: loading and validation come on top")
    print(f"start: efficientnet-transfer table run {out}")
