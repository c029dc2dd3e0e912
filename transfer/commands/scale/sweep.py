"""The paper's ablations, Figures 3, 4 and 8, for any baseline and dataset: scale sweep OUT --figure 3

Trains networks of several widths, depths and resolutions from random weights on a proxy task, once with each seed, and
plots accuracy on val against multiply-adds. Images at scale 1 have the size of the proxy task's. Points that round to
the same network share its runs.

  3  one dimension at a time: a curve along --widths, one along --depths, one along --resolutions
  4  along --widths, a curve for every pair of --depths and --resolutions
  8  as 3, and a curve of the compound rule along --phis; by default, each single dimension costs as much at each phi

You can kill it at any time: the same command, or `scale sweep OUT` alone, continues where it stopped.
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


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit status: 1 if a run failed or has no result."""
    arguments = vars(build_parser().parse_args(argv))
    return exit_status(lambda: sweep(arguments), build_parser)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; options that plan an ablation are absent unless given."""
    parser, planning = build_study_parser("sweep", __doc__)
    planning.add_argument("--figure", type=int, choices=(3, 4, 8), help="figure of the paper; default: 3")
    for name, figure_4 in (("widths", "1,1.4,1.8,2.6,3.8,5"), ("depths", "1,2"), ("resolutions", "1,1.3")):
        text = f"default: the paper's of Figure 3; {figure_4} of Figure 4; see above of Figure 8"
        planning.add_argument(f"--{name}", type=numbers, metavar="X,X,...", help=text)
    planning.add_argument("--phis", type=numbers, metavar="X,X,...", help="of Figure 8; default: 0,1,2,3")
    planning.add_argument(
        "--constants", type=numbers, metavar="A,B,G", help="alpha, beta, gamma of Figure 8; default: the paper's"
    )
    add_help(parser)
    return parser


def numbers(text: str) -> list[float]:
    """Return the numbers between the commas.

    Raises:
        ValueError: there is something else.
    """
    return [float(part) for part in text.split(",")]


def sweep(arguments: Mapping[str, Any]) -> int:
    """Plan, run and report an ablation; see `carry_out`."""
    from transfer.experiments.scaling.ablation import default_options, plan_points, plan_runs

    return carry_out("sweep", arguments, default_options(arguments), plan_points, plan_runs)


def build_report(study: Study, outcomes: Mapping[str, Outcome]) -> Report:
    """Return the report of an ablation."""
    from transfer.experiments.scaling.ablation_report import ablation_report

    return ablation_report(study, outcomes)
