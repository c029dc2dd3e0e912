"""The trials of a study in their order, and the noise of each round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transfer.experiments.halving import best
from transfer.experiments.scaling.noise import Noise, measure_noise
from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study, Trial, TrialRun
from transfer.statistics import Mean, bounded, mean_interval


@dataclass(frozen=True)
class Standing:
    """A trial with its scores in the last round that it took part in.

    Attributes:
        trial: the trial.
        round: number of that round, from 0.
        scores: scores in percent by seed, of the runs that are done.
        mean: their mean with its 95% interval over the seeds; None before the first run is done.
        num_failed: runs that failed.
    """

    trial: Trial
    round: int
    scores: Mapping[int, float]
    mean: Mean | None
    num_failed: int

    @property
    def value(self) -> float:
        """The mean in percent; NaN before the first run is done."""
        return math.nan if self.mean is None else self.mean.value


@dataclass(frozen=True)
class RankedRound:
    """The trials of a round, which were all trained equally long, best first.

    Attributes:
        steps: optimizer steps of each run.
        num_seeds: seeds of each trial.
        standings: the trials, best first.
        noise: noise of the complete trials, in percentage points; None with fewer than two of them, or one seed.
        run_seconds: mean processor time of a finished run; None before there is one.
    """

    steps: int
    num_seeds: int
    standings: tuple[Standing, ...]
    noise: Noise | None
    run_seconds: float | None

    @property
    def complete(self) -> list[Standing]:
        """The trials with a score of every seed, best first: only they are compared."""
        return [standing for standing in self.standings if len(standing.scores) == self.num_seeds]

    def equal_to_best(self) -> list[Standing]:
        """Return the best trial and those that cannot be told from it at 95%, whichever might have been the best."""
        if self.noise is None:
            return self.complete
        least, top = self.noise.significant_for_all(), self.complete[0].value
        return [standing for standing in self.complete if top - standing.value <= least]


def rank_rounds(study: Study, outcomes: Mapping[str, Outcome]) -> list[RankedRound]:
    """Rank the trials of each round of a study, whether it is finished or not."""
    return [_rank(study, number, runs, outcomes) for number, runs in enumerate(study.rounds())]


def _rank(study: Study, number: int, runs: Sequence[TrialRun], outcomes: Mapping[str, Outcome]) -> RankedRound:
    standings = []
    for name in dict.fromkeys(run.trial for run in runs):
        found = {run.seed: outcomes[run.id] for run in runs if run.trial == name and run.id in outcomes}
        scores = {seed: 100 * outcome.score for seed, outcome in found.items() if outcome.score is not None}
        mean = bounded(mean_interval(list(scores.values())), 0, math.inf) if scores else None
        num_failed = sum(outcome.failed for outcome in found.values())
        standings.append(Standing(study.trial(name), number, scores, mean, num_failed))
    order = best([standing.value for standing in standings], len(standings))
    num_seeds = len({run.seed for run in runs})
    seconds = [outcomes[run.id].processor_seconds for run in runs if run.id in outcomes and not outcomes[run.id].failed]
    mean_seconds = sum(seconds) / len(seconds) if seconds else None
    unmeasured = RankedRound(runs[0].steps, num_seeds, tuple(standings[k] for k in order), None, mean_seconds)
    table = [[standing.scores[seed] for seed in sorted(standing.scores)] for standing in unmeasured.complete]
    return replace(unmeasured, noise=measure_noise(table))


def ranked(all_rounds: Sequence[RankedRound]) -> list[Standing]:
    """Return all trials, best first: those of the last round, then those that the round before discarded, and so on."""
    order: dict[str, Standing] = {}
    for current in reversed(all_rounds):
        for standing in current.standings:
            order.setdefault(standing.trial.name, standing)
    return list(order.values())
