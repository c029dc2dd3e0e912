"""The grid search of the compound rule's constants (section 3.3, step 1): scale search OUT

Every alpha, beta, gamma of at least 1 on a grid with alpha * beta^2 * gamma^2 near 2 scales the baseline at phi = 1.
Those that round to the same network and image size are one candidate. Each is trained from random weights on a proxy
task, once with each seed, and they are ranked by the accuracy on val; the test split is never read. Each run is a
finetune with its configuration in a file and in its own folder, OUT/runs/<id>/.

Kill it at any time: the same command, or `scale search OUT` alone, goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.commands.scale.study import build_study_parser, carry_out

if TYPE_CHECKING:
    from transfer.experiments.scaling.plan import Study

# The paper's 1.2, 1.1, 1.15 are on this grid.
DEFAULTS: dict[str, Any] = {"spacing": [0.2, 0.1, 0.05], "budget_steps": None}
_EPILOG = """\
  scale search searches/digits --workers 2
  scale search searches/cifar10 --dataset cifar10 --data_root DIR --steps 300 --budget_steps 3000
  scale search searches/digits --launcher slurm --slurm partition=gpu     # a round at a time
  scale report searches/digits"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and gives the exit status: 1 if a run failed or has no result."""
    arguments = vars(build_parser().parse_args(argv))
    from transfer.experiments.scaling.rounds import plan_next_round

    return exit_status(lambda: carry_out("search", arguments, DEFAULTS, plan_candidates, plan_next_round))


def build_parser() -> argparse.ArgumentParser:
    """The command line; what plans a search has no value unless it is given."""
    parser, planning = build_study_parser("search", __doc__, _EPILOG)
    planning.add_argument(
        "--spacing",
        nargs=3,
        type=float,
        metavar=("A", "B", "G"),
        help=f"of alpha, beta, gamma on the grid; default: {' '.join(map(str, DEFAULTS['spacing']))}",
    )
    planning.add_argument(
        "--budget_steps",
        type=int,
        metavar="N",
        help="most steps of the runs of one seed together: successive halving, in which each round keeps the best third"
        " and trains it longer; default: all are trained to the end",
    )
    return parser


def plan_candidates(study: Study) -> Study:
    """Adds the candidates, and says how many there are and how long they will be trained.

    Raises:
        UserError: no candidate, or too small a budget.
    """
    from transfer.costs.network_costs import Costs
    from transfer.experiments.scaling.grid import grid_points, plan_trials
    from transfer.experiments.scaling.rounds import search_rungs

    options = study.options
    costs = Costs(options["baseline"], num_classes=study.facts["num_classes"], image_size=options["image_size"])
    points = grid_points(options["spacing"])
    trials, equal = plan_trials(costs, points)
    rungs = search_rungs(len(trials), options["steps"], options["budget_steps"])
    print(f"{len(points)} points of the grid satisfy the constraint: {len(trials)} different networks")
    for point in equal:
        print(f"  {point.alpha:g}, {point.beta:g}, {point.gamma:g} rounds to the same as {point.kept}: left out")
    seeds = len(options["seeds"])
    lengths = ", then ".join(f"{rung.size} networks for {rung.steps} steps" for rung in rungs)
    total = seeds * sum(rung.size * rung.steps for rung in rungs)
    print(f"{lengths}, with {seeds} seed{'s' if seeds > 1 else ''}: {total:,} steps in all", flush=True)
    facts = {"baseline_macs": costs.counts(costs.baseline).macs, "equal": [asdict(point) for point in equal]}
    return replace(study, facts={**study.facts, **facts}, trials=tuple(trials))
