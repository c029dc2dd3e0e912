"""Which cells a table has, what is known of each before it is run, and whether they can work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

from transfer.config.choices import share_batch
from transfer.config.command_line import parse_config, parse_probe_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.experiments.halving import list_trials, plan_rounds
from transfer.experiments.table.cell_run import Trial, run_configuration
from transfer.experiments.table.cells import Cell, Table, cell_id
from transfer.experiments.table.config import TableConfig
from transfer.experiments.table.probe_cells import LINEAR_PROBE, get_cell_protocol, is_probe, probe_configuration
from transfer.files import expanded

if TYPE_CHECKING:
    from transfer.costs.memory import TrainingMemory
    from transfer.networks.classifier import Classifier

_CLASSES = 1000  # of the classifier whose memory is estimated; a few more or less do not matter


@dataclass(frozen=True)
class DatasetFacts:
    """What a plan has to know about a dataset.

    Attributes:
        num_images: images of its train and val splits.
        image_size: side in pixels that its images are given by default; None leaves that to the backbone.
    """

    num_images: int
    image_size: int | None


def plan_table(wanted: TableConfig, get_facts: Callable[[str], DatasetFacts]) -> Table:
    """Return the table that a configuration asks for.

    Args:
        wanted: the configuration.
        get_facts: returns what is to be known about a dataset; called once for each.

    Raises:
        UserError: an unknown dataset, backbone or protocol, or data that cannot be had.
    """
    return Table(
        cells=tuple({cell.id: cell for cell in plan_cells(wanted, get_facts)}.values()),
        pretrained=wanted.pretrained,
        data_root=None if wanted.data_root is None else str(expanded(wanted.data_root).resolve()),
        data_note=wanted.data_note,
        set=wanted.set,
        not_comparable=wanted.not_comparable(),
        grid=wanted.grid,
        budget_steps=wanted.budget_steps,
    )


def plan_cells(wanted: TableConfig, get_facts: Callable[[str], DatasetFacts]) -> list[Cell]:
    """Return the cells with what is known of each before it is run; see `plan_table`."""
    from transfer.costs.memory import largest_batch, usable_memory
    from transfer.networks.registry import get_backbone

    memory, of = usable_memory()
    on_gpu = of == "gpu" and wanted.set.get("trainer.accelerator") != "cpu"
    facts = cache(get_facts)
    cells = []
    for pair, name in product(wanted.pairs(), wanted.protocols):
        variant, protocol = get_backbone(pair.backbone), get_cell_protocol(name)
        data = facts(pair.dataset)
        weights = {} if wanted.pretrained is None else {"pretrained": wanted.pretrained}
        size = _image_size(data, variant.name, {**weights, **protocol.settings, **wanted.set})
        largest = wanted.max_batch_per_device
        if largest is None:
            fitting = largest_batch(memory, step_memory(variant.name, size, on_gpu))
            largest = max(2, protocol.batch_size if fitting is None else fitting)
        for seed in wanted.seeds[:1] if protocol is LINEAR_PROBE else wanted.seeds:  # a probe draws nothing
            cells.append(
                Cell(
                    id=cell_id(pair.dataset, variant.name, protocol.name, seed),
                    dataset=pair.dataset,
                    backbone=variant.name,
                    protocol=protocol.name,
                    seed=seed,
                    image_size=size,
                    num_images=data.num_images,
                    num_parameters=count_parameters(variant.name),
                    max_batch_per_device=largest,
                )
            )
    return cells


@cache
def step_memory(backbone: str, image_size: int, on_gpu: bool) -> TrainingMemory:
    """Return the memory that a training step of a backbone takes in `automatic_precision`."""
    from transfer.costs.memory import training_memory
    from transfer.costs.speed import automatic_precision

    precision = automatic_precision(on_gpu, image_size)
    return training_memory(meta_classifier(backbone), image_size, precision=precision)


def meta_classifier(backbone: str) -> Classifier:
    """Return a classifier without memory, of whose step that of a cell is estimated."""
    import torch

    from transfer.weights.build import build_classifier

    with torch.device("meta"):
        return build_classifier(backbone, _CLASSES)


@cache
def count_parameters(backbone: str) -> int:
    """Return the number of parameters of a backbone without a classifier, which is built without memory.

    A scaled backbone has no published count.
    """
    import torch

    from transfer.weights.build import build_backbone

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_backbone(backbone, pretrained=False).parameters())


def _image_size(data: DatasetFacts, backbone: str, settings: Mapping[str, Any]) -> int:
    """Return the side of a run's input in pixels, as finetune decides it."""
    from transfer.weights.start import resolve_start

    start = resolve_start(
        backbone,
        settings.get("pretrained", FinetuneConfig.pretrained),
        settings.get("init_from"),
        dataset_size=data.image_size,
        image_size=settings.get("image_size"),
    )
    return start.preprocessing.image_size


def check_configurations(table: Table, devices: int = 1) -> None:
    """Parse the first trial and the final fit of every cell, whatever its seed, as finetune will.

    Args:
        table: the table.
        devices: GPUs of each run, or processes where there are none.

    Raises:
        BadValue: one of them cannot work.
    """
    by_seed = {(cell.dataset, cell.backbone, cell.protocol): cell for cell in table.cells}
    for cell in by_seed.values():
        if is_probe(cell):
            parse_probe_config(_words(probe_configuration(cell, table, devices)))
            continue
        own = get_cell_protocol(cell.protocol).grid
        if len(own) > 1 and table.grid and (left_out := own[0].keys() - table.grid.keys()):
            raise BadValue(
                f"`grid` {', '.join(table.grid)}: {cell.protocol} chooses {' and '.join(own[0])} together: give"
                f" {' and '.join(sorted(left_out))} too, or none"
            )
        trials = cell_trials(table, cell)
        if chosen := sorted(table.set.keys() & trials[0].keys()):
            raise BadValue(f"`set` {chosen[0]}: the trials of {cell.protocol} choose it; give `grid` {chosen[0]}=...")
        for final in (False, True):
            fields = run_configuration(cell, table, trials[0], devices, final)
            configuration, _ = share_batch(parse(fields), frozenset(fields), devices)
        plan_rounds(len(trials), configuration.trainer.max_steps, table.budget_steps)


def cell_trials(table: Table, cell: Cell) -> tuple[Trial, ...]:
    """Return the trials that a cell chooses from."""
    return list_trials(get_cell_protocol(cell.protocol).grid, table.grid)


def parse(fields: Mapping[str, Any]) -> FinetuneConfig:
    """Return the configuration that dotted fields make.

    Raises:
        UserError: it cannot work.
    """
    return parse_config(_words(fields))[0]


def _words(fields: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={'null' if value is None else value}" for name, value in fields.items()]
