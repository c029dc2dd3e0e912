"""The report of a study, finished or not: report.md, report.csv and report.png, .svg and .pdf."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from transfer.commands.console import exit_status
from transfer.commands.scale.study import build_report
from transfer.config.screens import add_help
from transfer.files import expanded


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: report(arguments.out, arguments.json), build_parser)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="efficientnet-transfer scale report", description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=expanded, metavar="OUT")
    parser.add_argument("--json", type=expanded, metavar="FILE", help="write the figures there too")
    add_help(parser)
    return parser


def report(out: Path, json: Path | None = None) -> None:
    """Write the report of what is there and print it.

    Args:
        out: folder of the study.
        json: file for its figures; None writes none.

    Raises:
        UserError: no study there.
    """
    from transfer.experiments.scaling.outcomes import read_outcomes
    from transfer.experiments.scaling.plan import read_study
    from transfer.experiments.scaling.report import figures, write_files
    from transfer.files import write_json

    study = read_study(out)
    outcomes = read_outcomes(out, study)
    found = build_report(study, outcomes)
    write_files(out, study, outcomes, found)
    print((out / "report.md").read_text(encoding="utf-8"))
    if json is not None:
        write_json(json, figures(study, outcomes, found))
