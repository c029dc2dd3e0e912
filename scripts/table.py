"""A table of results, cell by cell: python scripts/table.py plan|run|report OUT

plan    writes OUT/table.json: the cells, what they will cost, and how they differ from their protocols
run     brings every planned cell to its result; kill it and start it again, and it goes on where it was
report  what has been reached, beside the published table
cell    one cell: what every launcher starts
sweep   a W&B sweep file of finetune.py, without W&B
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.errors import UserError, exit_status

if TYPE_CHECKING:
    from transfer.config import FinetuneConfig
    from transfer.memory_estimate import TrainingMemory
    from transfer.table.cells import Cell, Table
    from transfer.table.config import TableConfig
    from transfer.table.estimate import Speed

# What finetune.py spends most of a short run's time on importing.
_MODULES_OF_A_RUN = (
    *("pytorch_lightning", "rich.table", "datamodules.base", "datamodules.cifar", "datamodules.digits"),
    *("datamodules.folder", "transfer.batch_norm", "transfer.callbacks", "transfer.classifier", "transfer.module"),
    *("transfer.runs", "transfer.saving"),
)

_CLASSES = 1000  # of the classifier whose memory is estimated; a few more or less do not matter

_EPILOG = """\
A cell is a dataset, a backbone, a protocol and a seed. Its trials train on train and are compared on val by the metric
that the literature quotes; the final fit takes the best one's values and reads the test split once. Each run is a
finetune.py process with its configuration in a file: OUT/cells/<cell>/trials/<k>/, OUT/cells/<cell>/final/; the cell's
result is OUT/cells/<cell>/result.json. Any number of `run` may work on the same OUT.

  table.py plan tables/paper --config configs/tables/paper.yaml --data_root DIR
  table.py run tables/paper --workers 8
  table.py run tables/paper --launcher slurm --slurm partition=gpu --slurm cpus_per_task=8
  table.py report tables/paper"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status: 1 if a cell failed."""
    arguments = vars(build_parser().parse_args(argv))
    commands: dict[str, Callable[..., int]] = {
        **{"plan": plan, "run": run, "report": report},
        **{"cell": run_one_cell, "sweep": sweep},
    }
    command = commands[arguments.pop("what")]
    return exit_status(lambda: command(**arguments))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="table.py",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="plan|run|report|cell|sweep")

    planning = commands.add_parser("plan", help="write OUT/table.json", argument_default=argparse.SUPPRESS)
    planning.add_argument("out", type=Path, metavar="OUT", help="folder of the table; one that exists is extended")
    planning.add_argument("--config", type=Path, metavar="FILE", help="a table, as configs/tables/paper.yaml")
    planning.add_argument("--datasets", nargs="+", metavar="NAME", help="of a file's cells, only these")
    planning.add_argument("--backbones", nargs="+", metavar="NAME", help="of a file's cells, only these")
    planning.add_argument("--protocols", nargs="+", metavar="NAME")
    planning.add_argument("--seeds", nargs="+", type=int, metavar="N")
    planning.add_argument("--pretrained", metavar="NAME", help="weights, as of finetune.py, where a protocol says none")
    planning.add_argument("--data_root", metavar="DIR", help="as of finetune.py, for every dataset")
    planning.add_argument("--data_note", metavar="TEXT", help="what a reader must know of the data")
    planning.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="a field of every run; results are then not comparable"
    )
    planning.add_argument(
        "--grid", action="append", metavar="KEY=V1,V2", help="values to choose from, in place of the protocol's grid"
    )
    planning.add_argument(
        "--budget_steps", type=int, metavar="N", help="most steps of a cell's trials: successive halving over the grid"
    )
    planning.add_argument(
        "--max_batch_per_device", type=int, metavar="N", help="more is accumulated; default: what fits in memory here"
    )
    planning.add_argument(
        "--benchmarks", nargs="+", type=Path, metavar="FILE", help="of benchmark.py train --json; default: measured"
    )

    running = commands.add_parser("run", help="run the planned cells that have no result yet")
    running.add_argument("out", type=Path, metavar="OUT")
    running.add_argument("--workers", type=int, metavar="N", help="cells at a time; default: as many as GPUs allow")
    running.add_argument("--devices_per_cell", type=int, default=1, metavar="N", help="GPUs of each cell; default: 1")
    running.add_argument("--retry_failed", action="store_true", help="also run the cells that failed")
    running.add_argument("--launcher", choices=("local", "slurm", "wandb"), default="local")
    running.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="submitit's parameters: partition=gpu, timeout_min=600, cpus_per_task=8, ..., cluster=local for a trial",
    )

    reporting = commands.add_parser("report", help="write and print what has been reached")
    reporting.add_argument("out", type=Path, metavar="OUT")

    single = commands.add_parser("cell", help="run one cell")
    single.add_argument("out", type=Path, metavar="OUT")
    single.add_argument("--cell", required=True, metavar="ID")
    single.add_argument("--devices", type=int, default=1, metavar="N")
    single.add_argument("--retry_failed", action="store_true")

    sweeping = commands.add_parser("sweep", help="run a sweep file without W&B")
    sweeping.add_argument("file", type=Path, metavar="FILE")
    sweeping.add_argument("--out_dir", type=Path, required=True, metavar="DIR", help="of its runs")
    sweeping.add_argument("--workers", type=int, metavar="N", help="runs at a time; default: as many as GPUs allow")
    sweeping.add_argument("--devices", type=int, default=1, metavar="N", help="GPUs of each run; default: 1")
    sweeping.add_argument("--count", type=int, metavar="N", help="runs; default: a whole grid, else the file's run_cap")
    sweeping.add_argument("--seed", type=int, default=0, help="of random draws; default: 0")
    return parser


def plan(out: Path, config: Path | None = None, benchmarks: Sequence[Path] = (), **flags: Any) -> int:
    """Writes the table and prints what it will cost.

    Raises:
        UserError: an unknown name, a configuration that cannot work, or another table's folder.
    """
    from transfer.ledger.entries import TABLE
    from transfer.report import write_json
    from transfer.table.cells import Table, extend, read_table, table_content
    from transfer.table.config import parse_table
    from transfer.table.estimate import read_benchmarks

    wanted = parse_table(config, flags)
    given = read_benchmarks(benchmarks)
    cells = plan_cells(wanted)
    table = Table(
        cells=tuple(cells),
        pretrained=wanted.pretrained,
        data_root=None if wanted.data_root is None else str(Path(wanted.data_root).expanduser().resolve()),
        data_note=wanted.data_note,
        set=wanted.set,
        not_comparable=wanted.not_comparable(),
        grid=wanted.grid,
        budget_steps=wanted.budget_steps,
    )
    if (out / TABLE).exists():
        table = extend(read_table(out), table, out)
    check_configurations(table)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / TABLE, table_content(table))
    print_plan(out, table, given)
    return 0


def plan_cells(wanted: TableConfig) -> list[Cell]:
    """The cells with what is known of each before it is run.

    Raises:
        UserError: an unknown dataset, backbone or protocol, or data that cannot be had.
    """
    from itertools import product

    from transfer.backbones import get_backbone
    from transfer.memory_estimate import largest_batch, usable_memory
    from transfer.protocols import get_protocol
    from transfer.table.cells import Cell, cell_id

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

    from transfer.classifier import build_classifier
    from transfer.memory_estimate import training_memory

    with torch.device("meta"):
        classifier = build_classifier(backbone, _CLASSES)
    return training_memory(classifier, image_size, precision="bf16-mixed" if on_gpu else "32-true")


@cache
def count_parameters(backbone: str) -> int:
    """Of the backbone alone, built without memory: a scaled one has no published count."""
    import torch

    from transfer.backbones import build_backbone

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_backbone(backbone, pretrained=False).parameters())


def count_images(dataset: str, wanted: TableConfig) -> int:
    """Images of train and val: from the data sheet, else from the data.

    Raises:
        UserError: an unknown dataset, or its sheet does not say and the data cannot be read or has no test split.
    """
    from datamodules import build_datamodule, get_dataset
    from transfer.command_line import parse_config

    sheet = get_dataset(dataset)
    if sheet.num_examples:
        return sum(number for split, number in sheet.num_examples.items() if split != "test")
    root = [] if wanted.data_root is None else [f"--data_root={wanted.data_root}"]
    words = [f"--{name}={value}" for name, value in wanted.set.items() if value is not None]
    data = build_datamodule(dataset, **parse_config([f"--dataset={dataset}", *root, *words])[0].data_options())
    data.setup()
    if "test" not in data.split_sizes:
        raise UserError(f"{dataset}: a table needs a test split; {wanted.data_root} has {', '.join(data.split_sizes)}")
    return sum(size for split, size in data.split_sizes.items() if split != "test")


def image_size(dataset: str, backbone: str, settings: dict[str, Any]) -> int:
    """Side of a run's input in pixels, as finetune.py decides it."""
    from datamodules import get_dataset
    from transfer.backbones import get_backbone, preprocessing_for, select_start
    from transfer.config import FinetuneConfig

    variant = get_backbone(backbone)
    pretrained = settings.get("pretrained", FinetuneConfig().pretrained)
    row = select_start(variant, pretrained, settings.get("init_from"))
    return (
        settings.get("image_size")
        or preprocessing_for(variant, row, get_dataset(dataset).default_image_size).image_size
    )


def check_configurations(table: Table) -> None:
    """Parses the first trial and the final fit of every cell, whatever its seed, as finetune.py will.

    Raises:
        UserError: one of them cannot work.
    """
    from transfer.table.cell_run import run_configuration
    from transfer.table.search import plan_rungs

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
    from transfer.protocols import get_protocol
    from transfer.table.search import trials_of

    return trials_of(get_protocol(cell.protocol).grid, table.grid)


def parse(fields: dict[str, Any]) -> FinetuneConfig:
    """The configuration that dotted fields make.

    Raises:
        UserError: it cannot work.
    """
    from transfer.command_line import parse_config

    return parse_config([f"--{name}={'null' if value is None else value}" for name, value in fields.items()])[0]


def print_plan(out: Path, table: Table, given: Sequence[Speed]) -> None:
    """One line for the cells that differ by their seed alone, and the sums."""
    import math

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Lines

    from transfer.protocols import get_protocol
    from transfer.table.cell_run import run_configuration
    from transfer.table.estimate import find_speed, hours
    from transfer.table.search import describe_search, plan_rungs

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
    print(f"start: python scripts/table.py run {out}")


def run(
    out: Path,
    workers: int | None,
    devices_per_cell: int,
    retry_failed: bool,
    launcher: str,
    slurm: Sequence[str],
) -> int:
    """Runs what is left; gives 1 if a cell has failed.

    Raises:
        UserError: no table there, or it cannot be run like this.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.table.cells import read_result, read_table, unfinished
    from transfer.table.launchers import LAUNCHERS, Launch, slurm_parameters

    for flag, value in (("--workers", workers), ("--devices_per_cell", devices_per_cell)):
        if value is not None and value < 1:
            raise UserError(f"{flag} {value} (allowed: at least 1)")
    parameters = slurm_parameters(slurm, launcher)
    table = read_table(out)
    ids = [cell.id for cell in unfinished(out, table, retry_failed)]
    if ids:
        on_cpu = computes_on_cpu(table)
        script, retry = str(Path(__file__).resolve()), ["--retry_failed"] if retry_failed else []
        launch = Launch(
            folder=out,
            words=[script, "cell", str(out.resolve()), "--devices", str(devices_per_cell), *retry],
            option="cell",
            ids=ids,
            go_on=f"python scripts/table.py run {out}",
            report=f"python scripts/table.py report {out}",
            workers=workers,
            devices=devices_per_cell,
            slurm=parameters,
            gpus=usable_gpus(on_cpu, workers or 1) if launcher == "local" else [],
            on_cpu=on_cpu,
        )
        LAUNCHERS[launcher](launch)
    results = {cell.id: read_result(out, cell) for cell in table.cells}
    failed = [name for name, result in results.items() if result is not None and result["status"] == "failed"]
    done = sum(result is not None for result in results.values()) - len(failed)
    print(f"{done} of {len(results)} cells are done" + (f", {len(failed)} failed" if failed else ""))
    for name in failed:
        result = results[name]
        assert result is not None
        print(f"  {name}: {result['error'].splitlines()[-1]}")
    if failed:
        print(f"why: {out}/cells/<cell>/result.json; again: python scripts/table.py run {out} --retry_failed")
    return int(bool(failed))


def run_one_cell(out: Path, cell: str, devices: int, retry_failed: bool) -> int:
    """Runs a cell, unless it is done; gives 1 if it failed and 75 if another process is at it.

    Raises:
        UserError: no such table or cell.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.table.cell_run import run_cell
    from transfer.table.cells import CellIsTaken, read_table
    from transfer.table.launchers import FAILED, TAKEN

    table = read_table(out)
    try:
        gpus = usable_gpus(computes_on_cpu(table))
        status = run_cell(out, table, table.cell(cell), devices, retry_failed, fork=not gpus)
    except CellIsTaken:
        return TAKEN
    return FAILED if status == "failed" else 0


def computes_on_cpu(table: Table) -> bool:
    """Whether its cells leave GPUs alone."""
    return table.set.get("trainer.accelerator") == "cpu"


def usable_gpus(on_cpu: bool = False, workers: int = 1) -> list[str]:
    """The GPUs for the runs of this process. If there are none, it gets ready to be forked: what a run imports is
    imported, and each of several workers has its share of the cores.
    """
    from transfer.table.launchers import visible_gpus

    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    gpus = [] if on_cpu else visible_gpus()
    if not gpus:
        for module in _MODULES_OF_A_RUN:
            import_module(module)
    return gpus


def report(out: Path) -> int:
    """Writes report.md, report.csv and the figures, and prints the table.

    Raises:
        UserError: no table there.
    """
    from transfer.ledger import write_report
    from transfer.table.cells import read_table

    read_table(out)
    write_report(out)
    print((out / "report.md").read_text())
    return 0


def sweep(file: Path, out_dir: Path, workers: int | None, devices: int, count: int | None, seed: int) -> int:
    """Runs a sweep file here; gives 1 if a run failed.

    Raises:
        UserError: it cannot be run here.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.table.sweep_run import run_sweep

    gpus = usable_gpus(workers=workers or 1)
    return int(run_sweep(file, out_dir, workers, devices, count, seed, gpus) > 0)


if __name__ == "__main__":
    sys.exit(main())
