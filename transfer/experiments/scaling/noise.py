"""How large the noise of a comparison is, against the differences that it is meant to find.

Each network was trained once with each of the same seeds: networks are the treatments and seeds the blocks of a
randomised complete block design (Fisher 1935). Networks with one seed see the same images in the same order, so they
are compared seed by seed: what a seed does to all of them drops out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
POWER = 0.8
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Noise:
    """The noise of scores; standard deviations are in the scores' unit.

    Attributes:
        num_networks: networks that are compared.
        num_seeds: seeds of each network.
        within: standard deviation over the seeds of one network, pooled over the networks.
        between: standard deviation of the networks' means.
        paired: standard deviation of what remains when the network's and the seed's mean are subtracted.
        icc: share of a single score's variance that the network explains, in [0, 1] (intraclass correlation ICC(1);
            McGraw & Wong 1996); a negative estimate is 0.
        f, p_value: test of the hypothesis that all networks are equal (one-way analysis of variance).
        seed_p_value: p-value of the hypothesis that all seeds are equal.
    """

    num_networks: int
    num_seeds: int
    within: float
    between: float
    paired: float
    icc: float
    f: float
    p_value: float
    seed_p_value: float

    @property
    def between_by_noise(self) -> float:
        """About what `between` would be if all networks were equal."""
        return self.within / math.sqrt(self.num_seeds)

    def significant(self, num_seeds: int | None = None) -> float:
        """Return the smallest difference that is significant at 95% between two networks chosen before training.

        Args:
            num_seeds: number of seeds, whose noise is taken to be the measured one; None for as many as there were.
        """
        from scipy.stats import t

        seeds = num_seeds or self.num_seeds
        quantile = t.ppf((1 + CONFIDENCE) / 2, (self.num_networks - 1) * (seeds - 1))
        return float(quantile * self.paired * math.sqrt(2 / seeds))

    def significant_for_all(self, num_seeds: int | None = None) -> float:
        """Return the smallest difference that is significant at 95% between any two networks (Tukey's HSD).

        It is the one for the best network and another: nobody chose the best before training.

        Args:
            num_seeds: see `significant`.
        """
        from scipy.stats import studentized_range

        seeds = num_seeds or self.num_seeds
        quantile = studentized_range.ppf(CONFIDENCE, self.num_networks, (self.num_networks - 1) * (seeds - 1))
        return float(quantile * self.paired / math.sqrt(seeds))

    def seeds_to_find(self, difference: float) -> int | None:
        """Return the seeds with which a difference between any two networks is found with a probability of 80%.

        The test is Tukey's, its power that of the noncentral t; the noise is taken to be the measured one.

        Args:
            difference: the true difference of two networks' accuracies, in the scores' unit.

        Returns:
            At least 2; None for more than about 10,000, or no difference.
        """
        from scipy.stats import norm, studentized_range

        if not self.paired or not difference:
            return 2 if difference else None
        # Where the noise is known, the distance in standard errors at which the power is reached; then by ones.
        distance = studentized_range.ppf(CONFIDENCE, self.num_networks, math.inf) / math.sqrt(2) + norm.ppf(POWER)
        seeds = max(2, round(2 * (self.paired * distance / difference) ** 2))
        if seeds > MOST_SEEDS:
            return None
        while self._power(difference, seeds) < POWER:
            seeds += 1
        while seeds > 2 and self._power(difference, seeds - 1) >= POWER:
            seeds -= 1
        return seeds

    def _power(self, difference: float, num_seeds: int) -> float:
        """Return the probability that a true difference is significant with a number of seeds."""
        from scipy.stats import nct

        error = self.paired * math.sqrt(2 / num_seeds)
        freedom = (self.num_networks - 1) * (num_seeds - 1)
        return float(nct.sf(self.significant_for_all(num_seeds) / error, freedom, abs(difference) / error))


def measure_noise(scores: Sequence[Sequence[float]]) -> Noise | None:
    """Return what scores say about their own noise, or None for fewer than two networks or two seeds.

    Args:
        scores: a row for each network and a column for each seed; all of them are numbers.
    """
    from scipy.stats import f as f_distribution

    table = np.asarray(scores, float)
    if table.ndim != 2 or min(table.shape) < 2:
        return None
    networks, seeds = table.shape
    means, seed_means, mean = table.mean(1), table.mean(0), table.mean()
    between = seeds * _squares(means - mean) / (networks - 1)
    within = _squares(table - means[:, None]) / (networks * (seeds - 1))
    of_seeds = networks * _squares(seed_means - mean) / (seeds - 1)
    freedom = (networks - 1) * (seeds - 1)
    paired = _squares(table - means[:, None] - seed_means + mean) / freedom
    f = _ratio(between, within)
    total = between + (seeds - 1) * within
    return Noise(
        num_networks=networks,
        num_seeds=seeds,
        within=math.sqrt(within),
        between=math.sqrt(between / seeds),
        paired=math.sqrt(paired),
        icc=max(0.0, (between - within) / total) if total else 0.0,
        f=f,
        p_value=float(f_distribution.sf(f, networks - 1, networks * (seeds - 1))),
        seed_p_value=float(f_distribution.sf(_ratio(of_seeds, paired), seeds - 1, freedom)),
    )


def _squares(deviations: NDArray[np.float64]) -> float:
    """Return the sum of squares; rounding errors in the differences of equal numbers count as nothing."""
    return float(np.sum(deviations.round(12) ** 2))


def _ratio(numerator: float, denominator: float) -> float:
    """Return the ratio of two mean squares: infinite for a difference without noise, 1 where both are 0."""
    if denominator:
        return numerator / denominator
    return math.inf if numerator else 1.0
