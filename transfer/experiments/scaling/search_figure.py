"""The picture of a grid search, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from transfer.experiments.scaling.figures import INK, save_png, tidy
from transfer.experiments.scaling.ranking import Round, Standing

_OURS = ("#0072B2", "#56B4E9", "#9a9a9a")


def draw_ranking(standings: Sequence[Standing], all_rounds: Sequence[Round], path: Path) -> Path:
    """The networks from the best down: each seed a dot, the mean a diamond with its 95% interval.

    The band holds what cannot be told from the best. Networks that were discarded earlier are paler.
    """
    figure = Figure(figsize=(7, 0.22 * len(standings) + 1.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    last = all_rounds[-1]
    if last.noise is not None and (top := last.standings[0].mean):
        axes.axvspan(top.value - last.noise.significant_for_all(), top.value, color="#009E73", alpha=0.15, lw=0)
    for row, standing in enumerate(standings):
        if standing.mean is None:
            continue
        colour = _OURS[min(len(all_rounds) - 1 - standing.rung, len(_OURS) - 1)]
        axes.plot(list(standing.scores.values()), [row] * len(standing.scores), "o", ms=3, color=colour, alpha=0.6)
        spread = standing.mean.half_width or 0
        axes.errorbar(standing.mean.value, row, xerr=spread, fmt="D", ms=4, color=colour, capsize=2, lw=1)
    values = [score for standing in standings for score in standing.scores.values()]
    margin = 0.05 * (max(values) - min(values)) + 0.5
    # An interval of two seeds may run out of the picture.
    axes.set(xlim=(min(values) - margin, max(values) + margin), ylim=(len(standings) - 0.5, -0.5))
    labels = ["alpha {:g}, beta {:g}, gamma {:g}".format(*s.trial.values.values()) for s in standings]
    axes.set_yticks(range(len(standings)), labels)
    axes.set_xlabel("val accuracy (%); band: not told from the best", fontsize=8, color=INK)
    tidy(axes)
    axes.grid(axis="y", visible=False)
    return save_png(figure, path)
