"""The paper's ablations, Figures 3, 4 and 8, for any baseline and dataset: scale sweep OUT --figure 3

Trains networks of other width, depth and resolution from random weights on a proxy task, once with each seed, and draws
the accuracy on val against the multiply-adds. Images at scale 1 have the proxy's size. Points that round to the same
network share its runs.

  3  one dimension at a time: a curve along --widths, one along --depths, one along --resolutions
  4  along --widths, a curve for every pair of --depths and --resolutions
  8  as 3, and a curve along --phis by the compound rule; the single dimensions cost as much at each phi unless given

Kill it at any time: the same command, or `scale sweep OUT` alone, goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.commands.scale.study import build_study_parser, carry_out
from transfer.errors import UserError

if TYPE_CHECKING:
    from transfer.experiments.scaling.plan import Study

_EPILOG = """\
  scale sweep sweeps/digits --baseline lite0 --workers 2
  scale sweep sweeps/fig8 --figure 8 --phis 0,1,2 --constants 1.2,1.1,1.15
  scale sweep sweeps/cifar10 --figure 4 --dataset cifar10 --data_root DIR --widths 1,1.4,2 --steps 300
  scale report sweeps/digits"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and gives the exit status: 1 if a run failed or has no result."""
    arguments = vars(build_parser().parse_args(argv))
    return exit_status(lambda: carry_out("sweep", arguments, defaults(arguments), plan_points, plan_runs))


def build_parser() -> argparse.ArgumentParser:
    """The command line; what plans a sweep has no value unless it is given."""
    parser, planning = build_study_parser("sweep", __doc__, _EPILOG)
    planning.add_argument("--figure", type=int, choices=(3, 4, 8), help="of the paper; default: 3")
    for name, figure_4 in (("widths", "1,1.4,1.8,2.6,3.8,5"), ("depths", "1,2"), ("resolutions", "1,1.3")):
        text = f"default: the paper's of Figure 3; {figure_4} of Figure 4; see above of Figure 8"
        planning.add_argument(f"--{name}", type=numbers, metavar="X,X,...", help=text)
    planning.add_argument("--phis", type=numbers, metavar="X,X,...", help="of Figure 8; default: 0,1,2,3")
    planning.add_argument(
        "--constants", type=numbers, metavar="A,B,G", help="alpha, beta, gamma of Figure 8; default: the paper's"
    )
    return parser


def numbers(text: str) -> list[float]:
    """The numbers between the commas.

    Raises:
        ValueError: there is something else.
    """
    return [float(part) for part in text.split(",")]


def defaults(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the options that only a sweep has.

    Raises:
        UserError: options that do not go together, or constants that are none.
    """
    from transfer.experiments.scaling.sweep import PHIS, default_values
    from transfer.networks.scaling import ALPHA, BETA, GAMMA

    figure = arguments.get("figure", 3)
    if figure != 8:
        for name in sorted({"phis", "constants"} & arguments.keys()):
            raise UserError(f"--{name} is Figure 8's (given: --figure {figure})")
        return {"figure": figure, **default_values(figure, (), ())}
    phis, constants = arguments.get("phis", [*PHIS]), arguments.get("constants", [ALPHA, BETA, GAMMA])
    if len(constants) != 3:
        raise UserError(f"--constants has {len(constants)} numbers (needed: alpha, beta, gamma)")
    return {"figure": 8, "phis": phis, "constants": constants, **default_values(8, phis, constants)}


def plan_points(study: Study) -> Study:
    """Adds the networks, and says how many there are and how long they will be trained.

    Raises:
        UserError: see `plan_networks`.
    """
    from transfer.costs.network_costs import Costs
    from transfer.experiments.scaling.sweep import figure_points, plan_networks

    options = study.options
    costs = Costs(options["baseline"], num_classes=study.facts["num_classes"], image_size=options["image_size"])
    trials, points = plan_networks(costs, figure_points(options["figure"], options))
    runs = len(trials) * len(options["seeds"])
    first, last = trials[0].num_macs / 1e6, trials[-1].num_macs / 1e6
    print(f"{len(points)} points, {len(trials)} different networks of {first:,.0f} to {last:,.0f} M multiply-adds")
    print(f"{runs} runs of {options['steps']} steps: {runs * options['steps']:,} steps in all", flush=True)
    facts = {"baseline_macs": costs.counts(costs.baseline).macs, "points": [asdict(point) for point in points]}
    return replace(study, facts={**study.facts, **facts}, trials=tuple(trials))


def plan_runs(study: Study, outcomes: Mapping[str, Any]) -> Study:
    """Adds a run of each network with each seed, all in one round."""
    from transfer.experiments.scaling.rounds import rung_runs, search_rungs

    if study.runs:
        return study
    rungs = search_rungs(len(study.trials), study.options["steps"], None)
    return study.extended(rung_runs(rungs, 0, study.trials, study.options["seeds"]))
