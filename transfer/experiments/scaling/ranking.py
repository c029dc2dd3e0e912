"""The trials of a study in their order, and what the noise of each round is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transfer.experiments.halving import best
from transfer.experiments.scaling.noise import Noise, measure_noise
from transfer.experiments.scaling.one_run import Outcome
from transfer.experiments.scaling.plan import Run, Study, Trial, rounds
from transfer.experiments.scaling.sweep import Point
from transfer.statistics import Mean, mean_interval


@dataclass(frozen=True)
class Standing:
    """A trial with its scores in the last round that it took part in.

    Attributes:
        scores: in percent by seed, of the runs that are done.
        mean: with its 95% interval over the seeds; None before the first run is done.
        num_failed: runs.
    """

    trial: Trial
    rung: int
    scores: Mapping[int, float]
    mean: Mean | None
    num_failed: int


@dataclass(frozen=True)
class Round:
    """The trials that were trained equally long, best first.

    Attributes:
        num_seeds: of each trial.
        noise: of the complete ones, in percentage points; None of fewer than two, or of one seed.
    """

    steps: int
    num_seeds: int
    standings: tuple[Standing, ...]
    noise: Noise | None

    @property
    def complete(self) -> list[Standing]:
        """Those with a score of every seed, best first: only they are compared."""
        return [standing for standing in self.standings if len(standing.scores) == self.num_seeds]

    def equal_to_best(self) -> list[Standing]:
        """The best one and those that cannot be told from it at 95%, any of them having had the chance to be it."""
        if self.noise is None:
            return self.complete
        least, top = self.noise.significant_for_all(), _value(self.complete[0])
        return [standing for standing in self.complete if top - _value(standing) <= least]


def study_rounds(study: Study, outcomes: Mapping[str, Outcome]) -> list[Round]:
    """The rounds of a study, whether they are finished or not."""
    return [_round(study, number, runs, outcomes) for number, runs in enumerate(rounds(study))]


def _round(study: Study, number: int, runs: Sequence[Run], outcomes: Mapping[str, Outcome]) -> Round:
    standings = []
    for name in dict.fromkeys(run.trial for run in runs):
        found = {run.seed: outcomes[run.id] for run in runs if run.trial == name and run.id in outcomes}
        scores = {seed: 100 * outcome.score for seed, outcome in found.items() if outcome.score is not None}
        mean = mean_interval(list(scores.values())) if scores else None
        num_failed = sum(outcome.failed for outcome in found.values())
        standings.append(Standing(study.trial(name), number, scores, mean, num_failed))
    order = best([_value(standing) for standing in standings], len(standings))
    num_seeds = len({run.seed for run in runs})
    unmeasured = Round(runs[0].steps, num_seeds, tuple(standings[k] for k in order), None)
    table = [[standing.scores[seed] for seed in sorted(standing.scores)] for standing in unmeasured.complete]
    return replace(unmeasured, noise=measure_noise(table))


def ranked(all_rounds: Sequence[Round]) -> list[Standing]:
    """All trials, best first: those of the last round, then those that the round before discarded, and so on."""
    order: dict[str, Standing] = {}
    for current in reversed(all_rounds):
        for standing in current.standings:
            order.setdefault(standing.trial.name, standing)
    return list(order.values())


def _value(standing: Standing) -> float:
    return math.nan if standing.mean is None else standing.mean.value


Curves = dict[str, list[tuple[Point, Standing]]]
