"""Run a W&B sweep file of finetune without W&B, and print what its runs reached: a part of the command `table`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.experiments import check_counts, usable_gpus
from transfer.commands.report import leave_page
from transfer.commands.tables import print_table

if TYPE_CHECKING:
    from transfer.experiments.search import Ended
    from transfer.experiments.sweeps import Sweep


def sweep(
    file: Path,
    out_dir: Path,
    workers: int | None,
    devices: int,
    count: int | None,
    seed: int,
    retry_failed: bool,
    allow_user_code: bool,
) -> int:
    """Run a sweep file here and return 1 if a run failed.

    Raises:
        UserError: it cannot be run here.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.experiments.sweep_record import SweepRecord, SweepTrial
    from transfer.experiments.sweep_runs import SweepRuns
    from transfer.experiments.sweeps import load_sweep
    from transfer.networks.user_code import refuse_user_code

    check_counts(workers=workers, devices=devices, count=count)
    plan = load_sweep(file)
    most = plan.num_runs(count)
    refuse_user_code(file, plan.named("backbone", "head"), allow_user_code)
    plan.finetune_arguments({})  # which refuses other programs
    if logger := plan.parameters.get("logger"):
        print(f"logger {logger.get('value', logger)} of {file} is ignored: nothing is sent to W&B from here")
    runs = SweepRuns(plan, out_dir, seed, allow_user_code)
    if retry_failed:
        runs.search.retry_failed()
    go_on = f"efficientnet-transfer table sweep {file} --out_dir {out_dir}, with the same options"
    runs.compute(most, workers, devices, usable_gpus(workers=workers or 1), go_on)
    ended = runs.ended()
    _print_runs(ended, runs.metric, plan, out_dir)
    best = ["finetune", *runs.best_arguments(ended[0].settings)] if ended and ended[0].value is not None else []
    if best:
        print(f"train the best again, and test it: efficientnet-transfer {shlex.join(best)}")
    trials = [SweepTrial(one.number, one.state, one.value, _varied(one, plan), one.reason) for one in ended]
    SweepRecord(runs.metric, runs.search.maximize, trials, best).save(out_dir)
    leave_page(out_dir)
    if elsewhere := sum(one.state == "not finished" for one in ended):
        print(f"{elsewhere} not finished, in another process: once it has ended, the same command shows all")
    if failed := sum(one.state == "failed" for one in ended):
        print(f"{failed} failed; again: the same command with --retry_failed")
    return int(failed > 0)


def _varied(one: Ended, plan: Sweep) -> dict[str, Any]:
    """Return the dotted settings of a run that are not the same in all."""
    from transfer.config.parsing import flatten

    return dict(flatten({name: value for name, value in one.settings.items() if "value" not in plan.parameters[name]}))


def _print_runs(ended: Sequence[Ended], metric: str, plan: Sweep, folder: Path) -> None:
    """Print a table with a line for each run, the best first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    names = list(dict.fromkeys(name for one in ended for name in _varied(one, plan)))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for column in (metric, *names, ""):
        table.add_column(column, justify="right", no_wrap=True)
    for one in ended:
        value = "" if one.value is None else f"{one.value:.4f}"
        found = _varied(one, plan)
        cells = [format(found.get(name, ""), "g" if isinstance(found.get(name), float) else "") for name in names]
        table.add_row(f"{one.number:02d}", value, *cells, "" if one.state == "done" else one.state)
    print(f"{len(ended)} run{'s' * (len(ended) != 1)} in {folder}")
    print_table(table)
