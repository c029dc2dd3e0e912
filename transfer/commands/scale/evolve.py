"""A small search for a better baseline (section 4): scale evolve OUT

Regularised evolution (Real et al. 2019) over the kernel size, expansion, squeeze-excitation and repeats of each stage's
MBConv blocks. Each network, a backbone BASELINE@blocks=..., is trained from random weights on a proxy task, once with
each seed; what is maximised is accuracy on val * (multiply-adds / T)^w. Test is never read. The first population is the
baseline and random networks; each child is new.

Kill it at any time: the same command, or `scale evolve OUT` alone, goes on where it was. What is found does not
depend on the number of workers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.commands.scale.study import build_study_parser, carry_out
from transfer.errors import UserError
from transfer.networks.scaling import OBJECTIVE_EXPONENT, OBJECTIVE_TARGET, search_objective

if TYPE_CHECKING:
    from transfer.experiments.scaling.plan import Study

DEFAULTS: dict[str, Any] = {
    **{"population": 8, "sample": 3, "networks": 24, "children": 1, "search_seed": 0},
    **{"target_macs": None, "exponent": OBJECTIVE_EXPONENT},
}
PAPER_SIZE = 224  # of the images of its search, in pixels
_EPILOG = """\
  scale evolve searches/blocks --baseline lite0 --workers 2
  scale evolve searches/cifar10 --dataset cifar10 --data_root DIR --steps 1000 --networks 100 --children 4
  scale report searches/blocks"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and gives the exit status: 1 if a run failed or has no result."""
    arguments = vars(build_parser().parse_args(argv))
    from transfer.experiments.scaling.evolution import plan_next_networks

    return exit_status(lambda: carry_out("evolve", arguments, DEFAULTS, plan_space, plan_next_networks))


def build_parser() -> argparse.ArgumentParser:
    """The command line; what plans an evolution has no value unless it is given."""
    parser, planning = build_study_parser("evolve", __doc__, _EPILOG)
    for name, text in (
        ("networks", "tried in all"),
        ("population", "networks that live at a time"),
        ("sample", "drawn of them for each child, whose parent is the best drawn"),
        ("children", "planned at a time: 1 as in the paper, more to keep more workers busy"),
        ("search_seed", "of what is drawn"),
    ):
        planning.add_argument(f"--{name}", type=int, metavar="N", help=f"{text}; default: {DEFAULTS[name]}")
    planning.add_argument(
        "--target_macs",
        type=float,
        metavar="T",
        help=f"multiply-adds at which the objective is the accuracy; default: the paper's {OBJECTIVE_TARGET:g} for"
        f" images of {PAPER_SIZE} px and more, the baseline's own for smaller ones; it leaves the order as it is",
    )
    planning.add_argument(
        "--exponent", type=float, metavar="W", help=f"of the multiply-adds; default: {DEFAULTS['exponent']}"
    )
    return parser


def plan_space(study: Study) -> Study:
    """Adds what the evolution needs to know of its baseline, and says what is searched.

    Raises:
        UserError: a baseline of other blocks, or numbers that cannot work.
    """
    from transfer.costs.counts import count_macs
    from transfer.experiments.scaling.evolution import study_space
    from transfer.networks.notation import format_blocks
    from transfer.networks.registry import get_variant, list_backbones

    options = study.options
    for name, least in (("population", 2), ("sample", 1), ("children", 1), ("networks", options["population"])):
        if options[name] < least:
            raise UserError(f"--{name} {options[name]} (allowed: at least {least})")
    if options["baseline"] not in list_backbones():
        raise UserError(
            f"--baseline {options['baseline']}: evolved are the blocks of a network of the tables"
            " (allowed: b0, lite0, v2-b0, mobilenet-v2)"
        )
    space = study_space(study)
    get_variant(f"{options['baseline']}@blocks={format_blocks(space.baseline)}")
    if options["networks"] > space.size:
        raise UserError(f"--networks {options['networks']} (there are {space.size})")
    macs = count_macs(get_variant(options["baseline"]), options["image_size"], study.facts["num_classes"])
    own = OBJECTIVE_TARGET if options["image_size"] >= PAPER_SIZE else macs
    target = own if options["target_macs"] is None else options["target_macs"]
    search_objective(1.0, macs, target, options["exponent"])
    runs = options["networks"] * len(options["seeds"])
    print(f"{options['networks']} of {space.size:,} networks, {runs} runs of {options['steps']} steps")
    print(
        f"objective: accuracy * (multiply-adds / T)^{options['exponent']:g}, T = {target / 1e6:,.1f} million"
        f" ({options['baseline']} at {options['image_size']} px: {macs / 1e6:,.1f} million)",
        flush=True,
    )
    return replace(study, facts={**study.facts, "baseline_macs": macs, "target_macs": target})
