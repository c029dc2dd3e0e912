"""Which runs a search needs next: every trial with every seed, or successive halving over the trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from transfer.experiments.halving import Rung, best, plan_rungs
from transfer.experiments.scaling.one_run import Outcome
from transfer.experiments.scaling.plan import Run, Study, Trial, rounds


def search_rungs(num_trials: int, steps: int, budget_steps: int | None) -> tuple[Rung, ...]:
    """The rounds of a search; see `plan_rungs`. One trial alone is trained too.

    Args:
        steps: of a full run.
        budget_steps: most optimizer steps of one seed's runs together.

    Raises:
        UserError: the budget is too small to try each once.
    """
    return plan_rungs(num_trials, steps, budget_steps) or (Rung(num_trials, steps),)


def rung_runs(rungs: Sequence[Rung], number: int, trials: Sequence[Trial], seeds: Sequence[int]) -> list[Run]:
    """The runs of a round: seed by seed, so that what is there when it is stopped compares the trials."""
    prefix = f"rung{number}_" if len(rungs) > 1 else ""
    return [
        Run(f"{prefix}{trial.name}_s{seed}", trial.name, seed, rungs[number].steps, number)
        for seed in seeds
        for trial in trials
    ]


def plan_next_round(study: Study, outcomes: Mapping[str, Outcome]) -> Study:
    """The study with the runs of its next round, once all of the planned ones have an outcome; as it is after the last.

    A round keeps the trials with the highest mean over the seeds of the round before; of equals the first.
    """
    options, done = study.options, rounds(study)
    rungs = search_rungs(len(study.trials), options["steps"], options["budget_steps"])
    if len(done) == len(rungs):
        return study
    trials = list(study.trials)
    if done:
        means = trial_means(done[-1], outcomes)
        order = best(list(means.values()), rungs[len(done)].size)
        trials = [study.trial(list(means)[k]) for k in order]
    return study.extended(rung_runs(rungs, len(done), trials, options["seeds"]))


def trial_means(runs: Sequence[Run], outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """The mean score of each trial of a round over its seeds; not a number where a run failed."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        score = outcomes[run.id].score
        scores.setdefault(run.trial, []).append(math.nan if score is None else score)
    return {name: sum(values) / len(values) for name, values in scores.items()}
