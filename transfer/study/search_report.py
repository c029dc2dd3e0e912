"""The report of a grid search: the order of its networks, and what of it is noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.ledger.tables import escape_csv, escape_markdown, markdown_table
from transfer.scaling import Scale
from transfer.study.conclusions import conclusions, is_papers
from transfer.study.one_run import Outcome
from transfer.study.plan import Study
from transfer.study.ranking import Round, Standing, ranked, study_rounds
from transfer.study.report_parts import (
    csv_text,
    describe_task,
    figures,
    noise_table,
    provenance,
    shown_interval,
    write_texts,
)

_HEADS = (
    *("rank", "alpha", "beta", "gamma", "d w^2 r^2 asked", "multiply-adds (M)", "of the baseline's", "parameters (M)"),
    *("px", "steps", "seeds", "val accuracy (%)", "95% interval"),
)


def write_search_report(folder: Path, study: Study, outcomes: Mapping[str, Outcome]) -> list[Path]:
    """Writes report.md, report.csv and, once a run is done and matplotlib is there, report.png; gives their paths."""
    all_rounds = study_rounds(study, outcomes)
    standings = ranked(all_rounds)
    texts = {
        "report.md": markdown_report(folder.resolve().name, study, all_rounds, outcomes),
        "report.csv": csv_report(study, standings, all_rounds),
    }
    written = write_texts(folder, texts)
    if any(standing.mean for standing in standings):
        try:
            from transfer.study.search_figure import draw_ranking
        except ImportError:
            return written
        written.append(draw_ranking(standings, all_rounds, folder / "report.png"))
    return written


def markdown_report(name: str, study: Study, all_rounds: Sequence[Round], outcomes: Mapping[str, Outcome]) -> str:
    """The whole report.

    Args:
        name: of the study.
    """
    options, facts = study.options, study.facts
    standings = ranked(all_rounds)
    parts = [
        f"# {escape_markdown(name)}: alpha, beta, gamma of {escape_markdown(options['baseline'])} at phi = 1",
        describe_task(study, outcomes),
        "## How large is the noise?",
        "\n".join(f"- {line}" for line in conclusions(all_rounds, facts["val_images"])),
    ]
    parts += noise_table(all_rounds)
    rows = [
        _row(rank, standing, all_rounds[standing.rung].steps, facts["baseline_macs"])
        for rank, standing in enumerate(standings, 1)
    ]
    parts += ["## The networks", markdown_table(_HEADS, rows)]
    if facts["equal"]:
        parts += [f"Left out, as they round to the same network and image size: {_equal(facts['equal'])}."]
    parts += ["## Measured on", provenance(outcomes)]
    return "\n\n".join(parts) + "\n"


def _row(rank: int, standing: Standing, steps: int, baseline_macs: int) -> list[str]:
    trial, mean = standing.trial, standing.mean
    alpha, beta, gamma = trial.values.values()
    failed = f", {standing.num_failed} failed" if standing.num_failed else ""
    bold = "**" if is_papers(trial) else ""
    return [
        *(str(rank), *(f"{bold}{value:g}{bold}" for value in (alpha, beta, gamma))),
        f"{Scale(alpha, beta, gamma).flops_factor:.3f}",
        *(f"{trial.num_macs / 1e6:.1f}", f"{trial.num_macs / baseline_macs:.2f}"),
        *(f"{trial.num_parameters / 1e6:.2f}", str(trial.image_size), str(steps)),
        f"{len(standing.scores)}{failed}",
        "" if mean is None else f"{mean.value:.2f}",
        shown_interval(mean),
    ]


def csv_report(study: Study, standings: Sequence[Standing], all_rounds: Sequence[Round]) -> str:
    """A line for each network, best first; accuracies in percent, what is not known is empty."""
    last, equal = all_rounds[-1], all_rounds[-1].equal_to_best()
    rows = []
    for rank, standing in enumerate(standings, 1):
        trial, mean = standing.trial, standing.mean
        rows.append(
            {
                "rank": rank,
                "backbone": escape_csv(trial.backbone),
                **trial.values,
                "flops_factor_asked": round(Scale(*trial.values.values()).flops_factor, 6),
                "macs": trial.num_macs,
                "macs_of_baseline": round(trial.num_macs / study.facts["baseline_macs"], 4),
                "parameters": trial.num_parameters,
                "image_size": trial.image_size,
                "round": standing.rung,
                "steps": all_rounds[standing.rung].steps,
                "seeds": len(standing.scores),
                "failed": standing.num_failed,
                "val": mean and round(mean.value, 4),
                "val_low": mean and mean.low and round(mean.low, 4),
                "val_high": mean and mean.high and round(mean.high, 4),
                "told_from_best": standing not in equal if last.noise and standing in last.complete else None,
                "scores": " ".join(f"{score:.4f}" for score in standing.scores.values()),
            }
        )
    return csv_text(rows)


def search_figures(study: Study, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """The numbers of the report; see `figures`."""
    all_rounds = study_rounds(study, outcomes)
    return figures(study, all_rounds, conclusions(all_rounds, study.facts["val_images"]), outcomes)


def _equal(points: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{p['alpha']:g}, {p['beta']:g}, {p['gamma']:g} (as {p['kept']})" for p in points)
