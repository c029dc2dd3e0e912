"""What follows from a grid search, in words."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.experiments.scaling.noise import MOST_SEEDS, POWER, Noise
from transfer.experiments.scaling.plan import Trial
from transfer.experiments.scaling.ranking import RankedRound, ranked
from transfer.networks.scaling import ALPHA, BETA, GAMMA
from transfer.statistics import rank_correlation


def conclusions(all_rounds: Sequence[RankedRound], num_images: int) -> list[str]:
    """Return what follows from a search for a reader who knows no statistics, a sentence each.

    Args:
        all_rounds: the rounds of the search.
        num_images: number of val images.
    """
    last = all_rounds[-1]
    if not any(standing.mean for standing in last.standings):
        return ["No run of the last round is done: nothing can be said yet."]
    lines = missing_lines(last)
    if last.noise is not None:
        lines.append(_told_apart(last))
    lines += noise_lines(last.noise)
    lines += _power_lines(last)
    for number, current in enumerate(all_rounds[:-1]):
        kept = len(all_rounds[number + 1].standings)
        doubtful = len(current.equal_to_best()) - kept
        if current.noise is not None and doubtful > 0:
            lines.append(
                f"After {current.steps} steps {kept} of {len(current.standings)} networks were kept, though"
                f" {doubtful + kept} could not be told apart: there, chance decided too."
            )
    lines += [line for line in (_paper(all_rounds), _followed(all_rounds[0])) if line]
    return [*lines, val_line(num_images)]


def val_line(num_images: int) -> str:
    """Return a sentence about what the number of val images means for the accuracies."""
    return (
        f"One val image is {100 / num_images:.2f} points. All networks are measured on the same ones, and the intervals"
        " are over seeds alone: on other images the accuracies would move further."
    )


def _told_apart(last: RankedRound) -> str:
    equal, all_of_them = len(last.equal_to_best()), len(last.complete)
    if equal == 1:
        return f"The best network is better than each of the other {all_of_them - 1} by more than the noise explains."
    if equal == all_of_them:
        return f"No network can be told from the best: all {all_of_them} lie within the noise."
    return f"The best {equal} of {all_of_them} networks cannot be told apart."


def missing_lines(current: RankedRound) -> list[str]:
    """Return a sentence that says how many networks of a round are not compared, if any."""
    missing = len(current.standings) - len(current.complete)
    whole = len(current.standings)
    return [f"{missing} of {whole} networks lack a run: they are left out of the comparisons."] if missing else []


def noise_lines(noise: Noise | None) -> list[str]:
    """Return sentences about how large the noise is against the differences, and what more seeds could tell apart.

    None says that the noise is unknown.
    """
    if noise is None:
        return ["There is no measure of the noise, which takes two networks with two seeds each: all may be chance."]
    return [_share(noise), _needed(noise)]


def _share(noise: Noise) -> str:
    by_chance = "more than" if noise.p_value < 0.05 else "no more than"
    return (
        f"One network varies by {noise.within:.2f} points (standard deviation) from seed to seed. The networks' means"
        f" vary by {noise.between:.2f}; those of equal ones would by {noise.between_by_noise:.2f}. That is {by_chance}"
        f" chance would cause (F = {noise.f:.2f}, p = {shown_p(noise.p_value)}): {100 * noise.icc:.0f}% of the variance"
        " of single runs comes from the networks, the rest is noise."
    )


def _needed(noise: Noise) -> str:
    more = max(10, 2 * noise.num_seeds)
    return (
        f"With {noise.num_seeds} seeds, two networks chosen beforehand differ significantly if they are at"
        f" least {noise.significant():.2f} points apart, the best and any other {noise.significant_for_all():.2f}; with"
        f" {more} seeds these would be about {noise.significant(more):.2f} and {noise.significant_for_all(more):.2f}."
    )


def _power_lines(last: RankedRound) -> list[str]:
    """Return a sentence about the seeds that would tell the best network from those that it is not told from, if any.

    Nothing is said of more steps, which change the differences and the noise.
    """
    best, *others = last.equal_to_best()
    if last.noise is None or not others or last.run_seconds is None:
        return []
    texts, most = [], 0
    for standing in {others[0].trial.name: others[0], others[-1].trial.name: others[-1]}.values():
        gap = best.value - standing.value
        seeds = last.noise.seeds_to_find(gap)
        most = max(most, seeds or MOST_SEEDS)
        number = f"more than {MOST_SEEDS:,}" if seeds is None else f"{seeds:,}"
        texts.append(f"{number} seeds from number {last.complete.index(standing) + 1} ({gap:.2f} points)")
    hours = most * len(last.complete) * last.run_seconds / 3600
    return [
        f"If these differences are the true ones, the best network can be told with a probability of {POWER:.0%} with"
        f" {' and '.join(texts)}: {hours:,.1f} hours of processor time for the {len(last.complete)} networks, at"
        f" {last.run_seconds:,.1f} s for a run of {last.steps:,} steps."
    ]


def _paper(all_rounds: Sequence[RankedRound]) -> str | None:
    """Return a sentence about where the paper's constants came out."""
    order = ranked(all_rounds)
    place = next((n for n, s in enumerate(order, 1) if is_papers(s.trial)), None)
    if place is None:
        return f"The paper's constants, {ALPHA:g}, {BETA:g}, {GAMMA:g}, are not on this grid."
    standing, best = order[place - 1], order[0]
    text = f"The paper's constants, {ALPHA:g}, {BETA:g}, {GAMMA:g}, are number {place} of {len(order)}"
    if standing.mean is None or best.mean is None or place == 1:
        return f"{text}."
    if standing.round != best.round:
        return f"{text}: discarded after {all_rounds[standing.round].steps} steps."
    text = f"{text}, {best.mean.value - standing.mean.value:.2f} points below the best"
    last = all_rounds[-1]
    if last.noise is None or standing not in last.complete:
        return f"{text}."
    return f"{text}: {'no' if standing in last.equal_to_best() else 'a'} significant difference."


def is_papers(trial: Trial) -> bool:
    """Return whether a trial was made from the paper's constants."""
    return tuple(trial.values.values()) == (ALPHA, BETA, GAMMA)


def _followed(first: RankedRound) -> str | None:
    """Return a sentence about what the accuracy goes with.

    That is the coefficients, and the multiply-adds that rounding has left the networks.
    """
    done = [(standing.trial, standing.mean.value) for standing in first.standings if standing.mean is not None]
    columns = {name: [trial.values[name] for trial, _ in done] for name in (done[0][0].values if done else ())}
    macs = [trial.num_macs for trial, _ in done]
    columns["multiply-adds"] = [float(number) for number in macs]
    accuracies = [value for _, value in done]
    if len(done) < 3 or len(set(accuracies)) < 2:
        return None
    found = {name: rank_correlation(column, accuracies) for name, column in columns.items() if len(set(column)) > 1}
    texts = [f"{name} {result.value:.2f} (p = {shown_p(result.p_value)})" for name, result in found.items()]
    return (
        f"The accuracy's rank correlations: with {', '.join(texts)}. Rounding has left the networks"
        f" {min(macs) / 1e6:.1f} to {max(macs) / 1e6:.1f} million multiply-adds."
    )


def shown_p(value: float) -> str:
    """Return a p-value as text."""
    return "under 0.001" if value < 0.001 else f"{value:.3f}"
