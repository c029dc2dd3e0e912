"""The grid search of the compound rule's constants (section 3.3, step 1): scale search OUT

Every alpha, beta, gamma of at least 1 on a grid with alpha * beta^2 * gamma^2 near 2 scales the baseline at phi = 1.
Those that round to the same network and image size are one candidate. Each is trained from random weights on a proxy
task, once with each seed, and they are ranked by the accuracy on val; the test split is never read. Each run is a
finetune with its configuration in a file and in its own folder, OUT/runs/<id>/.

You can kill it at any time: the same command, or `scale search OUT` alone, continues where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.commands.scale.study import build_study_parser, carry_out
from transfer.config.screens import add_help

if TYPE_CHECKING:
    from transfer.experiments.scaling.outcomes import Outcome
    from transfer.experiments.scaling.plan import Study
    from transfer.experiments.scaling.report import Report

# The paper's 1.2, 1.1, 1.15 are on this grid.
DEFAULTS: dict[str, Any] = {"spacing": [0.2, 0.1, 0.05], "budget_steps": None}


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit status: 1 if a run failed or has no result."""
    arguments = vars(build_parser().parse_args(argv))
    return exit_status(lambda: search(arguments), build_parser)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; options that plan a search are absent unless given."""
    parser, planning = build_study_parser("search", __doc__)
    planning.add_argument(
        "--spacing",
        nargs=3,
        type=float,
        metavar=("A", "B", "G"),
        help=f"steps of alpha, beta, gamma on the grid; default: {' '.join(map(str, DEFAULTS['spacing']))}",
    )
    planning.add_argument(
        "--budget_steps",
        type=int,
        metavar="N",
        help="most steps of the runs of one seed together: successive halving, in which each round keeps the best third"
        " and trains it longer; default: all are trained to the end",
    )
    add_help(parser)
    return parser


def search(arguments: Mapping[str, Any]) -> int:
    """Plan, run and report a grid search; see `carry_out`."""
    from transfer.experiments.scaling.grid import plan_candidates
    from transfer.experiments.scaling.rounds import plan_next_round

    return carry_out("search", arguments, DEFAULTS, plan_candidates, plan_next_round)


def build_report(study: Study, outcomes: Mapping[str, Outcome]) -> Report:
    """Return the report of a grid search."""
    from transfer.experiments.scaling.search_report import search_report

    return search_report(study, outcomes)
