"""The picture of an evolution, drawn by matplotlib without a display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from transfer.experiments.drawing import BLUE, DPI, GREEN, INK, ORANGE, save_figure, tidy
from transfer.experiments.scaling.plan import Study
from transfer.experiments.scaling.ranking import RankedRound


def draw_evolution(study: Study, only: RankedRound, path: Path) -> list[Path]:
    """Draw the objective of each network in the order of the plan, and of the best so far; return its files.

    The band holds what cannot be told from the baseline, given how many networks are compared. Seeds are small dots.

    Args:
        study: the study.
        only: its networks, ranked by `by_objective`.
        path: file to write.
    """
    standings = {standing.trial.name: standing for standing in only.standings if standing.mean}
    numbers = [number for number, trial in enumerate(study.trials) if trial.name in standings]
    done = [standings[study.trials[number].name] for number in numbers]
    values = [standing.mean.value for standing in done if standing.mean]
    figure = Figure(figsize=(6, 3.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    if only.noise is not None and numbers[0] == 0:
        reach = only.noise.significant_for_all()
        axes.axhspan(values[0] - reach, values[0] + reach, color=GREEN, alpha=0.12, lw=0)
    for number, standing in zip(numbers, done, strict=True):
        for score in standing.scores.values():
            axes.plot(number, score, ".", ms=3, color=BLUE, alpha=0.5)
    axes.plot(numbers, values, "D", ms=4, color=BLUE, label="mean over the seeds")
    best = [max(values[: k + 1]) for k in range(len(values))]
    axes.step(numbers, best, where="post", color=ORANGE, lw=1.2, label="best so far")
    if (size := study.options["population"]) < len(study.trials):
        axes.axvline(size - 0.5, color=INK, lw=0.6, ls=":", label="children from here on")
    axes.set_xlabel("network, in the order planned; 0 is the baseline", fontsize=8, color=INK)
    axes.set_ylabel("objective (%)", fontsize=8, color=INK)
    scores = [score for standing in done for score in standing.scores.values()]
    margin = 0.05 * (max(scores) - min(scores)) + 0.5
    axes.set_ylim(min(scores) - margin, max(scores) + margin)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    tidy(axes, 7)
    return save_figure(figure, path)
