"""Which runs a search needs next: every trial with every seed, or successive halving over the trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from transfer.experiments.halving import Round, best, plan_rounds
from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study, Trial, TrialRun


def search_rounds(num_trials: int, steps: int, budget_steps: int | None) -> tuple[Round, ...]:
    """Return the rounds of a search; see `plan_rounds`. A single trial is trained, too.

    Args:
        num_trials: trials to choose from.
        steps: optimizer steps of a full run.
        budget_steps: most optimizer steps of the runs of one seed together.

    Raises:
        UserError: the budget is too small to try each trial once.
    """
    return plan_rounds(num_trials, steps, budget_steps) or (Round(num_trials, steps),)


def round_runs(rounds: Sequence[Round], number: int, trials: Sequence[Trial], seeds: Sequence[int]) -> list[TrialRun]:
    """Return the runs of a round, seed by seed, so that a study that is stopped early can still compare its trials.

    Args:
        rounds: all rounds of the search.
        number: number of the round, from 0.
        trials: trials of the round.
        seeds: seeds of each trial.
    """
    prefix = f"rung{number}_" if len(rounds) > 1 else ""
    return [
        TrialRun(f"{prefix}{trial.name}_s{seed}", trial.name, seed, rounds[number].steps, number)
        for seed in seeds
        for trial in trials
    ]


def plan_next_round(study: Study, outcomes: Mapping[str, Outcome]) -> Study:
    """Return the study with the runs of its next round, or as it is after the last one.

    A round keeps the trials with the highest mean over the seeds of the round before; of equal ones the first.

    Args:
        study: a study all of whose runs have an outcome.
        outcomes: what came of the runs, by their ids.
    """
    options, done = study.options, study.rounds()
    rounds = search_rounds(len(study.trials), options["steps"], options["budget_steps"])
    if len(done) == len(rounds):
        return study
    trials = list(study.trials)
    if done:
        means = trial_means(done[-1], outcomes)
        order = best(list(means.values()), rounds[len(done)].size)
        trials = [study.trial(list(means)[k]) for k in order]
    return study.extended(round_runs(rounds, len(done), trials, options["seeds"]))


def trial_means(runs: Sequence[TrialRun], outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Return the mean score of each trial of a round over its seeds, which is not a number where a run failed."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        score = outcomes[run.id].score
        scores.setdefault(run.trial, []).append(math.nan if score is None else score)
    return {name: sum(values) / len(values) for name, values in scores.items()}
