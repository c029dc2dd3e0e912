"""A table of results, cell by cell: efficientnet-transfer table plan|run|report OUT

plan    writes OUT/table.json: the cells, what they will cost, and how they differ from their protocols
run     brings every planned cell to its result; kill it and start it again, and it goes on where it was
report  what has been reached, beside the published table
cell    one cell: what every launcher starts
sweep   a W&B sweep file of finetune, without W&B
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.errors import UserError
from transfer.experiments.launchers import computes_on_cpu, usable_gpus
from transfer.experiments.table.planning import (
    check_configurations,
    plan_cells,
    print_plan,
)

if TYPE_CHECKING:
    pass


_EPILOG = """\
A cell is a dataset, a backbone, a protocol and a seed. Its trials train on train and are compared on val by the metric
that the literature quotes; the final fit takes the best one's values and reads the test split once. Each run is a
finetune process with its configuration in a file: OUT/cells/<cell>/trials/<k>/, OUT/cells/<cell>/final/; the cell's
result is OUT/cells/<cell>/result.json. Any number of `run` may work on the same OUT.

  table plan tables/paper --config configs/tables/paper.yaml --data_root DIR
  table run tables/paper --workers 8
  table run tables/paper --launcher slurm --slurm partition=gpu --slurm cpus_per_task=8
  table report tables/paper"""


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
        prog="efficientnet-transfer table",
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
    planning.add_argument("--pretrained", metavar="NAME", help="weights, as of finetune, where a protocol says none")
    planning.add_argument("--data_root", metavar="DIR", help="as of finetune, for every dataset")
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
    from transfer.costs.speed import read_benchmarks
    from transfer.experiments.table.cells import Table, extend, read_table, table_content
    from transfer.experiments.table.config import parse_table
    from transfer.experiments.table.entries import TABLE
    from transfer.files import write_json

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
    from transfer.experiments.launchers import LAUNCHERS, Launch, slurm_parameters
    from transfer.experiments.table.cells import read_result, read_table, unfinished

    for flag, value in (("--workers", workers), ("--devices_per_cell", devices_per_cell)):
        if value is not None and value < 1:
            raise UserError(f"{flag} {value} (allowed: at least 1)")
    parameters = slurm_parameters(slurm, launcher)
    table = read_table(out)
    ids = [cell.id for cell in unfinished(out, table, retry_failed)]
    if ids:
        on_cpu = computes_on_cpu(table)
        retry = ["--retry_failed"] if retry_failed else []
        launch = Launch(
            folder=out,
            words=["-m", "transfer", "table", "cell", str(out.resolve()), "--devices", str(devices_per_cell), *retry],
            option="cell",
            ids=ids,
            go_on=f"efficientnet-transfer table run {out}",
            report=f"efficientnet-transfer table report {out}",
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
        print(f"why: {out}/cells/<cell>/result.json; again: efficientnet-transfer table run {out} --retry_failed")
    return int(bool(failed))


def run_one_cell(out: Path, cell: str, devices: int, retry_failed: bool) -> int:
    """Runs a cell, unless it is done; gives 1 if it failed and 75 if another process is at it.

    Raises:
        UserError: no such table or cell.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.experiments.launchers import FAILED, TAKEN
    from transfer.experiments.locks import CellIsTaken
    from transfer.experiments.table.cell_run import run_cell
    from transfer.experiments.table.cells import read_table

    table = read_table(out)
    try:
        gpus = usable_gpus(computes_on_cpu(table))
        status = run_cell(out, table, table.cell(cell), devices, retry_failed, fork=not gpus)
    except CellIsTaken:
        return TAKEN
    return FAILED if status == "failed" else 0


def report(out: Path) -> int:
    """Writes report.md, report.csv and the figures, and prints the table.

    Raises:
        UserError: no table there.
    """
    from transfer.experiments.table.cells import read_table
    from transfer.experiments.table.report import write_report

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
    from transfer.experiments.sweep_run import run_sweep

    gpus = usable_gpus(workers=workers or 1)
    return int(run_sweep(file, out_dir, workers, devices, count, seed, gpus) > 0)
