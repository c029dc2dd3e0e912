"""The report of a grid search: the order of its networks, and how much of it is noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.experiments.scaling.conclusions import conclusions, is_papers
from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study
from transfer.experiments.scaling.ranking import RankedRound, Standing, rank_rounds, ranked
from transfer.experiments.scaling.report import COST_HEADS, Report, cost_cells, cost_columns, score_cells, score_columns
from transfer.markdown import markdown_table
from transfer.networks.scaling import Scale

_HEADS = (
    *("rank", "alpha", "beta", "gamma", "d w^2 r^2 asked", *COST_HEADS),
    *("px", "steps", "seeds", "val accuracy (%)", "95% interval"),
)


def search_report(study: Study, outcomes: Mapping[str, Outcome]) -> Report:
    """Return the report of a grid search.

    It lists the networks from the best down: those of the last round, then those that the round before discarded, and
    so on.
    """
    all_rounds = rank_rounds(study, outcomes)
    standings = ranked(all_rounds)
    equal = study.facts["equal"]

    def draw(path: Path) -> list[Path]:
        from transfer.experiments.scaling.figures import draw_ranking

        return draw_ranking(standings, all_rounds, path)

    return Report(
        title=f"alpha, beta, gamma of {study.options['baseline']} at phi = 1",
        intro=(),
        conclusions=conclusions(all_rounds, study.facts["val_images"]),
        rounds=all_rounds,
        table=markdown_table(_HEADS, [_cells(n, s, all_rounds, study) for n, s in enumerate(standings, 1)]),
        notes=[f"Left out, as they round to the same network and image size: {_equal(equal)}."] if equal else (),
        rows=[_columns(n, s, all_rounds, study) for n, s in enumerate(standings, 1)],
        draw=draw,
    )


def _cells(rank: int, standing: Standing, all_rounds: Sequence[RankedRound], study: Study) -> list[str]:
    trial = standing.trial
    alpha, beta, gamma = trial.values.values()
    bold = "**" if is_papers(trial) else ""
    return [
        *(str(rank), *(f"{bold}{value:g}{bold}" for value in (alpha, beta, gamma))),
        *(f"{Scale(alpha, beta, gamma).flops_factor:.3f}", *cost_cells(trial, study)),
        *(str(trial.image_size), str(all_rounds[standing.round].steps), *score_cells(standing)),
    ]


def _columns(rank: int, standing: Standing, all_rounds: Sequence[RankedRound], study: Study) -> dict[str, Any]:
    trial, last = standing.trial, all_rounds[-1]
    compared = last.noise is not None and standing in last.complete
    return {
        "rank": rank,
        "backbone": trial.backbone,
        **trial.values,
        "flops_factor_asked": round(Scale(*trial.values.values()).flops_factor, 6),
        **cost_columns(trial, study),
        "round": standing.round,
        "steps": all_rounds[standing.round].steps,
        **score_columns(standing, "val"),
        "told_from_best": standing not in last.equal_to_best() if compared else None,
    }


def _equal(points: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{p['alpha']:g}, {p['beta']:g}, {p['gamma']:g} (as {p['kept']})" for p in points)
