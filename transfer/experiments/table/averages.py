"""A setting's accuracy averaged over datasets, as papers form it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from transfer.experiments.table.results import Result
from transfer.statistics import Mean, bounded, mean_interval

AVERAGES = """\
The mean of accuracies is VTAB's (Zhai et al. 2019, arXiv 1910.04867); that of their log odds, ln(p / (1 - p)), is
Kornblith et al.'s (2019, arXiv 1805.08974): there an error less counts for more where few are left. In parentheses is
the accuracy that has these odds. Each dataset has its quoted metric. The interval is over the seeds that every dataset
has. Only rows of the same datasets can be compared."""


@dataclass(frozen=True)
class Average:
    """One backbone and protocol over the datasets that it was run on.

    Attributes:
        datasets: their names, at least two.
        mean: of the accuracies, in percent, over the seeds that all datasets have.
        log_odds: mean of their log odds; None where an accuracy is 0 or 100%.
    """

    backbone: str
    protocol: str
    datasets: tuple[str, ...]
    mean: Mean
    log_odds: float | None

    @property
    def accuracy_of_log_odds(self) -> float | None:
        """The accuracy that has the mean log odds, in percent."""
        return None if self.log_odds is None else 100 / (1 + math.exp(-self.log_odds))


def average_results(results: Sequence[Result]) -> list[Average]:
    """Return the averages of every backbone and protocol with at least two datasets, in the order of the results."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.quoted is not None:
            groups.setdefault((result.backbone, result.protocol), []).append(result)
    return [_average(group) for group in groups.values() if len(group) > 1]


def _average(group: Sequence[Result]) -> Average:
    by_seed = [{entry.seed: entry.accuracy(result.quoted_metric) for entry in result.done} for result in group]
    common = [seed for seed in by_seed[0] if all(seeds.get(seed) is not None for seeds in by_seed)]
    kept = [[value for seed in common or seeds if (value := seeds[seed]) is not None] for seeds in by_seed]
    of_datasets = [fmean(values) for values in kept]
    if common:
        mean = bounded(mean_interval([fmean(of_seed) for of_seed in zip(*kept, strict=True)]), 0, 100)
    else:
        mean = Mean(fmean(of_datasets), None, None, 0)
    log_odds = None
    if all(0 < value < 100 for value in of_datasets):
        log_odds = fmean([math.log(value / (100 - value)) for value in of_datasets])
    datasets = tuple(result.dataset for result in group)
    return Average(group[0].backbone, group[0].protocol, datasets, mean, log_odds)
