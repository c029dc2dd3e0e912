"""A small search for a better baseline (section 4): scale evolve OUT

Regularised evolution (Real et al. 2019) over the kernel size, expansion, squeeze-excitation and repeats of each stage's
MBConv blocks. Each network, a backbone BASELINE@blocks=..., is trained from random weights on a proxy task, once with
each seed; the search maximises accuracy on val * (multiply-adds / T)^w. Test is never read. The first population is the
baseline and random networks; each child is new.

You can kill it at any time: the same command, or `scale evolve OUT` alone, continues where it stopped. What it finds
does not depend on the number of workers.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.commands.scale.study import build_study_parser, carry_out
from transfer.config.screens import add_help
from transfer.experiments.scaling.evolution import DEFAULTS, PAPER_SIZE
from transfer.networks.scaling import OBJECTIVE_TARGET

if TYPE_CHECKING:
    from transfer.experiments.scaling.outcomes import Outcome
    from transfer.experiments.scaling.plan import Study
    from transfer.experiments.scaling.report import Report


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit status: 1 if a run failed or has no result."""
    arguments = vars(build_parser().parse_args(argv))
    return exit_status(lambda: evolve(arguments), build_parser)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; options that plan an evolution are absent unless given."""
    parser, planning = build_study_parser("evolve", __doc__)
    for name, text in (
        ("networks", "networks that are tried in all"),
        ("population", "networks that live at a time"),
        ("sample", "networks drawn from them for each child, whose parent is the best of these"),
        ("children", "children planned at a time: 1 as in the paper, more to keep more workers busy"),
        ("search_seed", "seed of the draws"),
    ):
        planning.add_argument(f"--{name}", type=int, metavar="N", help=f"{text}; default: {DEFAULTS[name]}")
    planning.add_argument(
        "--target_macs",
        type=float,
        metavar="T",
        help=f"multiply-adds at which the objective is the accuracy; default: the paper's {OBJECTIVE_TARGET:g} for"
        f" images of {PAPER_SIZE} px and more, the baseline's own for smaller ones; it does not change the order",
    )
    planning.add_argument(
        "--exponent", type=float, metavar="W", help=f"exponent of the multiply-adds; default: {DEFAULTS['exponent']}"
    )
    add_help(parser)
    return parser


def evolve(arguments: Mapping[str, Any]) -> int:
    """Plan, run and report an evolution; see `carry_out`."""
    from transfer.experiments.scaling.evolution.search import plan_next_networks, plan_space

    return carry_out("evolve", arguments, DEFAULTS, plan_space, plan_next_networks)


def build_report(study: Study, outcomes: Mapping[str, Outcome]) -> Report:
    """Return the report of an evolution."""
    from transfer.experiments.scaling.evolution.report import evolution_report

    return evolution_report(study, outcomes)
