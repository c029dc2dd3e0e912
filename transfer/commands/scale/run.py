"""One run of a study: what every launcher starts for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from transfer.commands.console import exit_status
from transfer.commands.scale.study import go_on_command, prepare


def main(argv: Sequence[str]) -> int:
    """Runs the command line and gives the exit status."""
    parser = argparse.ArgumentParser(prog="efficientnet-transfer scale run", description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--run", required=True, metavar="ID")
    parser.add_argument("--retry_failed", action="store_true", help="compute it again if it failed")
    arguments = parser.parse_args(argv)
    return exit_status(lambda: run_one(arguments.out, arguments.run, arguments.retry_failed))


def run_one(out: Path, name: str, retry_failed: bool) -> int:
    """Computes a run, unless it is done; gives 1 if it failed and 75 if another process is at it.

    Raises:
        UserError: no such study or run.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.experiments.launchers import FAILED, TAKEN
    from transfer.experiments.locks import CellIsTaken
    from transfer.experiments.scaling.one_run import compute_run
    from transfer.experiments.scaling.plan import read_study

    study = read_study(out)
    run = study.run(name)
    gpus = prepare(study)
    try:
        outcome = compute_run(out, study, run, go_on_command(study, out), retry_failed, fork=not gpus)
    except CellIsTaken:
        return TAKEN
    if outcome.score is None:
        return FAILED
    print(f"{name}: val {outcome.metric} {outcome.score:.4f}", flush=True)
    return 0
