"""A table of results, cell by cell: efficientnet-transfer table plan|run|report OUT

plan    writes OUT/table.json: the cells, their cost, and how they differ from their protocols
run     computes every planned cell, then reports; killed at any time, it goes on where it stopped
report  prints the results so far beside the published table, and writes a page about them
cell    computes one cell: every launcher starts this command
sweep   runs a W&B sweep file of finetune without W&B, on Optuna
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.console import add_allow_user_code, exit_status
from transfer.commands.experiments import (
    add_launch_options,
    check_counts,
    job_words,
    read_data_facts,
    usable_gpus,
)
from transfer.commands.next_steps import say_next
from transfer.commands.report import leave_page
from transfer.commands.table_sweep import sweep
from transfer.config.screens import add_help
from transfer.errors import BadValue
from transfer.files import expanded

# Fields by which a run trains on a part of the images.
DRAWN = frozenset(("data.per_class", "data.fraction"))

if TYPE_CHECKING:
    from transfer.experiments.table.config import TableConfig
    from transfer.experiments.table.planning import DatasetFacts

_EPILOG = """\
A cell is a dataset, a backbone, a protocol and a seed. Its trials train on train and are compared on val by the metric
that the literature quotes; the final fit takes the best one's values and reads the test split once. Each run is a
finetune process with its configuration in a file: OUT/cells/<cell>/trials/<k>/, OUT/cells/<cell>/final/; the cell's
result is OUT/cells/<cell>/result.json. Any number of `run` may work on the same OUT. The protocol linear-probe runs the
probe command instead, once for all seeds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 1 if a cell failed."""
    arguments = vars(build_parser().parse_args(argv))
    commands: dict[str, Callable[..., int]] = {
        **{"plan": plan, "run": run, "report": report},
        **{"cell": run_one_cell, "sweep": sweep},
    }
    command = commands[arguments.pop("what")]
    return exit_status(lambda: command(**arguments), build_parser)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer table",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="plan|run|report|cell|sweep")
    _add_plan_options(commands.add_parser("plan", help="write OUT/table.json", argument_default=argparse.SUPPRESS))

    running = commands.add_parser("run", help="run the planned cells that have no result yet")
    running.add_argument("out", type=expanded, metavar="OUT")
    running.add_argument("--devices_per_cell", type=int, default=1, metavar="N", help="GPUs of each cell; default: 1")
    add_launch_options(running, "cells", timeout_min=600)

    reporting = commands.add_parser("report", help="write and print what has been reached")
    reporting.add_argument("out", type=expanded, metavar="OUT")

    single = commands.add_parser("cell", help="run one cell")
    single.add_argument("out", type=expanded, metavar="OUT")
    single.add_argument("--cell", required=True, metavar="ID")
    single.add_argument("--devices", type=int, default=1, metavar="N")
    single.add_argument("--retry_failed", action="store_true")
    add_allow_user_code(single)

    _add_sweep_options(commands.add_parser("sweep", help="run a sweep file without W&B"))
    add_help(parser)
    return parser


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    add_allow_user_code(parser)
    parser.add_argument("out", type=expanded, metavar="OUT", help="folder of the table; one that exists is extended")
    parser.add_argument("--config", type=expanded, metavar="FILE", help="a table, such as configs/tables/paper.yaml")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="only these of a file's datasets")
    parser.add_argument("--backbones", nargs="+", metavar="NAME", help="only these of a file's backbones")
    parser.add_argument("--protocols", nargs="+", metavar="NAME", help="as in finetune, and linear-probe")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N")
    parser.add_argument("--pretrained", metavar="NAME", help="weights, as in finetune, where a protocol names none")
    parser.add_argument("--data_root", metavar="DIR", help="as in finetune, for every dataset")
    parser.add_argument("--data_note", metavar="TEXT", help="what a reader must know about the data")
    parser.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="a field of every run; results are then not comparable"
    )
    parser.add_argument(
        "--grid", action="append", metavar="KEY=V1,V2", help="values to choose from instead of the protocol's grid"
    )
    parser.add_argument(
        "--budget_steps", type=int, metavar="N", help="most steps of a cell's trials: successive halving over the grid"
    )
    parser.add_argument(
        "--max_batch_per_device", type=int, metavar="N", help="more is accumulated; default: what fits in memory here"
    )
    parser.add_argument(
        "--benchmarks",
        nargs="+",
        type=expanded,
        metavar="FILE",
        help="of `python -m benchmarks train`; default: measured",
    )


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    add_allow_user_code(parser)
    parser.add_argument("file", type=expanded, metavar="FILE")
    parser.add_argument("--out_dir", type=expanded, required=True, metavar="DIR", help="folder of its runs")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time; default: as many as GPUs allow")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="GPUs of each run; default: 1")
    parser.add_argument("--count", type=int, metavar="N", help="runs; default: a whole grid, else the file's run_cap")
    parser.add_argument("--seed", type=int, default=0, help="seed of random draws; default: 0")
    parser.add_argument("--retry_failed", action="store_true", help="also run what failed again")


def plan(
    out: Path, config: Path | None = None, benchmarks: Sequence[Path] = (), allow_user_code: bool = False, **flags: Any
) -> int:
    """Write the table and print what it will cost.

    Raises:
        UserError: an unknown name, a configuration that cannot work, or another table's folder.
    """
    from transfer.commands.table_costs import print_estimates
    from transfer.costs.speed import read_benchmarks
    from transfer.experiments.table.cells import extend, read_table, table_content
    from transfer.experiments.table.config import parse_table
    from transfer.experiments.table.entries import TABLE
    from transfer.experiments.table.estimate import estimate_costs
    from transfer.experiments.table.planning import check_configurations, plan_table
    from transfer.files import write_json
    from transfer.networks.user_code import refuse_user_code

    wanted = parse_table(config, flags)
    names = [("backbones", pair.backbone) for pair in wanted.pairs() if pair.backbone not in flags.get("backbones", ())]
    refuse_user_code(config, names, allow_user_code)
    given = read_benchmarks(benchmarks)
    table = plan_table(wanted, lambda dataset: dataset_facts(dataset, wanted))
    if (out / TABLE).exists():
        table = extend(read_table(out), table, out)
    check_configurations(table)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / TABLE, table_content(table))
    print_estimates(out, estimate_costs(out, table, given))
    return 0


def dataset_facts(dataset: str, wanted: TableConfig) -> DatasetFacts:
    """Return what a plan has to know about a dataset: from its data sheet, or from the data, if a part of it is drawn.

    Raises:
        UserError: an unknown dataset, or its sheet does not say and the data cannot be read or has no test split.
    """
    from datamodules import get_sheet
    from transfer.experiments.table.cells import own_data_root, own_settings
    from transfer.experiments.table.planning import DatasetFacts, parse

    sheet = get_sheet(dataset)
    sizes = sheet.num_examples
    is_drawn = bool(DRAWN & wanted.set.keys())
    if is_drawn or not sizes:
        fields = own_settings(dataset, wanted.set)
        fields |= {"dataset": dataset, "data_root": own_data_root(dataset, wanted.data_root)}
        if is_drawn:
            fields["data.train_on"] = "trainval"  # the final fit's images, which are drawn from both
        sizes = read_data_facts(parse(fields)).split_sizes
        if "test" not in sizes:
            raise BadValue(f"{dataset}: a table needs a test split; {wanted.data_root} has {', '.join(sizes)}")
    return DatasetFacts(sum(size for split, size in sizes.items() if split != "test"), sheet.default_image_size)


def run(
    out: Path,
    workers: int | None,
    devices_per_cell: int,
    retry_failed: bool,
    launcher: str,
    slurm: Sequence[str],
    allow_user_code: bool = False,
) -> int:
    """Run the cells that are left and return 1 if a cell has failed, or was to be computed here and has no result.

    Once none is left it writes the files of `report`, without printing them.

    Raises:
        UserError: no table there, or it cannot be run like this.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.experiments.jobs import describe_progress, pending_jobs
    from transfer.experiments.launchers import LAUNCHERS, Launch, slurm_parameters
    from transfer.experiments.table.cell_run import table_jobs
    from transfer.experiments.table.cells import open_table
    from transfer.experiments.table.planning import check_configurations
    from transfer.experiments.table.report import write_report

    check_counts(workers=workers, devices_per_cell=devices_per_cell)
    parameters = slurm_parameters(slurm, launcher)
    table = open_table(out, allow_user_code)
    check_configurations(table, devices_per_cell)
    jobs = table_jobs(out, table)
    if pending := pending_jobs(jobs, retry_failed):
        words = ["table", "cell", str(out.resolve()), "--devices", str(devices_per_cell)]
        launch = Launch(
            folder=out,
            words=[*words, *job_words(retry_failed, allow_user_code)],
            option="cell",
            ids=[job.id for job in pending],
            go_on=run_command(out),
            report=f"efficientnet-transfer table report {out}",
            workers=workers,
            devices=devices_per_cell,
            slurm=parameters,
            gpus=usable_gpus(table.on_cpu, workers or 1) if launcher == "local" else [],
            on_cpu=table.on_cpu,
        )
        LAUNCHERS[launcher](launch)
    done, failed, lines = describe_progress(jobs, "cells")
    print("\n".join(lines))
    if failed:
        print(f"why: {out}/cells/<cell>/result.json; again: {run_command(out)} --retry_failed")
    left = len(jobs) - done - failed
    if not left:
        leave_page(out, lambda: write_report(out))
    if left and launcher == "local":
        print(f"{left} of {len(jobs)} cells have no result; go on with: {run_command(out)}")
        return 1
    if done == len(jobs):
        say_next("table computed", out)
    return int(failed > 0)


def run_command(out: Path) -> str:
    """Return the command that goes on with a table."""
    return f"efficientnet-transfer table run {out}"


def run_one_cell(out: Path, cell: str, devices: int, retry_failed: bool, allow_user_code: bool = False) -> int:
    """Run a cell, unless it is done; return 1 if it failed and 75 if another process computes it.

    Raises:
        UserError: no such table or cell.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.experiments.table.cell_run import cell_job
    from transfer.experiments.table.cells import open_table

    table = open_table(out, allow_user_code)
    job = cell_job(out, table, table.cell(cell), devices)
    gpus = usable_gpus(table.on_cpu)
    return job.exit_status(out, run_command(out), retry_failed, fork=not gpus)


def report(out: Path) -> int:
    """Write the files of the report and its page, see `write_report`, and print report.md.

    Raises:
        UserError: no table there.
    """
    from transfer.experiments.table.cells import read_table
    from transfer.experiments.table.report import write_report

    read_table(out)
    write_report(out)
    print((out / "report.md").read_text(encoding="utf-8"))
    leave_page(out)
    return 0
