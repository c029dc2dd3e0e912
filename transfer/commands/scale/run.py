"""Computes one run of a study: every launcher starts this command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from transfer.commands.console import add_allow_user_code, exit_status
from transfer.commands.scale.study import prepare
from transfer.config.screens import add_help
from transfer.files import expanded


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: run_one(**vars(arguments)), build_parser)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="efficientnet-transfer scale run", description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=expanded, metavar="OUT")
    parser.add_argument("--run", required=True, dest="name", metavar="ID")
    parser.add_argument("--retry_failed", action="store_true", help="compute it again if it failed")
    add_allow_user_code(parser)
    add_help(parser)
    return parser


def run_one(out: Path, name: str, retry_failed: bool, allow_user_code: bool) -> int:
    """Compute a run, unless it is done; return 1 if it failed and 75 if another process computes it.

    Raises:
        UserError: no such study or run.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.experiments.scaling.outcomes import run_job
    from transfer.experiments.scaling.plan import read_study
    from transfer.experiments.scaling.planning import continue_command, user_code
    from transfer.networks.user_code import refuse_user_code

    study = read_study(out)
    refuse_user_code(out, user_code(study), allow_user_code)
    job = run_job(out, study, study.run(name))
    gpus = prepare(study)
    return job.exit_status(out, continue_command(study, out), retry_failed, fork=not gpus)
