"""The report of a study, finished or not: report.md, report.csv and, with matplotlib, report.png."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import exit_status

if TYPE_CHECKING:
    from transfer.experiments.scaling.one_run import Outcome
    from transfer.experiments.scaling.plan import Study
    from transfer.experiments.scaling.report import Report


def main(argv: Sequence[str]) -> int:
    """Runs the command line and gives the exit status."""
    parser = argparse.ArgumentParser(prog="efficientnet-transfer scale report", description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args(argv)
    return exit_status(lambda: report(arguments.out, arguments.json))


def report(out: Path, json: Path | None = None) -> None:
    """Writes the report of what is there and prints it.

    Args:
        json: file for its figures.

    Raises:
        UserError: no study there.
    """
    from transfer.experiments.scaling.loop import read_outcomes
    from transfer.experiments.scaling.plan import read_study
    from transfer.experiments.scaling.report import figures, write_files
    from transfer.files import write_json

    study = read_study(out)
    outcomes = read_outcomes(out, study)
    found = build_report(study, outcomes)
    write_files(out, study, outcomes, found)
    print((out / "report.md").read_text())
    if json is not None:
        write_json(json, figures(study, outcomes, found))


def build_report(study: Study, outcomes: Mapping[str, Outcome]) -> Report:
    """The report of this kind of study."""
    from transfer.experiments.scaling.evolution_report import evolution_report
    from transfer.experiments.scaling.search_report import search_report
    from transfer.experiments.scaling.sweep_report import sweep_report

    kinds = {"search": search_report, "sweep": sweep_report, "evolve": evolution_report}
    return kinds[study.kind](study, outcomes)
