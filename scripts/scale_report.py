"""The report of a study, finished or not: report.md, report.csv and, with matplotlib, report.png."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.errors import exit_status

if TYPE_CHECKING:
    from transfer.study.one_run import Outcome
    from transfer.study.plan import Study


def main(argv: Sequence[str]) -> int:
    """Runs the command line and gives the exit status."""
    parser = argparse.ArgumentParser(prog="scale.py report", description=__doc__, allow_abbrev=False)
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
    from transfer.report import write_json
    from transfer.study.loop import read_outcomes
    from transfer.study.plan import read_study

    study = read_study(out)
    outcomes = read_outcomes(out, study)
    write_report(out, study, outcomes)
    print((out / "report.md").read_text())
    if json is not None:
        write_json(json, report_figures(study, outcomes))


def write_report(out: Path, study: Study, outcomes: Mapping[str, Outcome]) -> list[Path]:
    """Writes the report of this kind of study into its folder, and gives the files."""
    from transfer.study.evolution_report import write_evolution_report
    from transfer.study.search_report import write_search_report
    from transfer.study.sweep_report import write_sweep_report

    writers = {"search": write_search_report, "sweep": write_sweep_report, "evolve": write_evolution_report}
    return writers[study.kind](out, study, outcomes)


def report_figures(study: Study, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """The numbers of the report of this kind of study."""
    from transfer.study.evolution_report import evolution_figures
    from transfer.study.search_report import search_figures
    from transfer.study.sweep_report import sweep_figures

    makers = {"search": search_figures, "sweep": sweep_figures, "evolve": evolution_figures}
    return makers[study.kind](study, outcomes)
