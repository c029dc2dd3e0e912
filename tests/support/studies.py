"""Grid searches and what came of their runs, for the tests of studies."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study, Trial
from transfer.experiments.scaling.rounds import plan_next_round


def make_study(scores: Sequence[Sequence[float]], budget: int | None = None, steps: int = 100) -> Study:
    """A search over as many trials as there are rows, each with a seed a column; the first is the paper's."""
    trials = tuple(
        Trial(f"t{k}", "b0", {"alpha": 1.2 + k, "beta": 1.1, "gamma": 1.15}, 40, 10**7 * (k + 1), 10**6)
        for k in range(len(scores))
    )
    options = {"baseline": "b0", "dataset": "digits", "image_size": 40, "steps": steps, "budget_steps": budget}
    options |= {"threads": 1}
    options["seeds"] = list(range(len(scores[0])))
    facts = {"num_classes": 10, "train_images": 1257, "val_images": 180, "baseline_macs": 10**7, "equal": []}
    return plan_next_round(Study("search", options, {"bn": "adapt"}, facts, trials), {})


def outcomes_of(study: Study, scores: Sequence[Sequence[float]]) -> dict[str, Outcome]:
    """Of the runs that are planned; a score that is not a number is a failure."""
    found = {}
    for run in study.runs:
        score = scores[int(run.trial[1:])][run.seed]
        place = {"hardware": {"gpus": [], "cores": 2, "cpu": "a CPU"}, "versions": {"torch": "2"}}
        done = Outcome(score, "top1", {"top1": score}, 1.0, 2.5, **place, git_commit="abc")
        found[run.id] = Outcome(error="killed") if math.isnan(score) else done
    return found
