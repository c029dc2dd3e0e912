"""The trials of a study in their order, and what the noise of each round is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transfer.statistics import Mean, mean_interval
from transfer.study.noise import Noise, measure_noise
from transfer.study.one_run import Outcome
from transfer.study.plan import Run, Study, Trial, rounds
from transfer.table.search import best


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
        noise: in percentage points; None where one seed, or one trial, has all its scores.
    """

    steps: int
    standings: tuple[Standing, ...]
    noise: Noise | None

    def equal_to_best(self) -> list[Standing]:
        """The best one and those that cannot be told from it at 95%, any of them having had the chance to be it."""
        if self.noise is None:
            return list(self.standings)
        least, top = self.noise.significant_for_all(), _value(self.standings[0])
        return [standing for standing in self.standings if top - _value(standing) <= least]


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
    seeds = dict.fromkeys(run.seed for run in runs)
    complete = [list(s.scores.values()) for s in standings if len(s.scores) == len(seeds)]
    numbers = [row for row in complete if all(map(math.isfinite, row))]
    return Round(runs[0].steps, tuple(standings[k] for k in order), measure_noise(numbers))


def ranked(all_rounds: Sequence[Round]) -> list[Standing]:
    """All trials, best first: those of the last round, then those that the round before discarded, and so on."""
    order: dict[str, Standing] = {}
    for current in reversed(all_rounds):
        for standing in current.standings:
            order.setdefault(standing.trial.name, standing)
    return list(order.values())


def _value(standing: Standing) -> float:
    return math.nan if standing.mean is None else standing.mean.value
