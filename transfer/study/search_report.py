"""The report of a grid search: the order of its networks, and what of it is noise."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transfer.ledger.tables import escape_csv, escape_markdown, markdown_table
from transfer.scaling import Scale
from transfer.study.conclusions import conclusions, is_papers, shown_p
from transfer.study.one_run import Outcome
from transfer.study.plan import Study
from transfer.study.ranking import Round, Standing, ranked, study_rounds

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
    written = []
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
        written.append(folder / name)
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
    settings = ", ".join(f"{key} {value}" for key, value in study.settings.items())
    parts = [
        f"# {escape_markdown(name)}: alpha, beta, gamma of {escape_markdown(options['baseline'])} at phi = 1",
        f"{len(standings)} networks from random weights on {escape_markdown(options['dataset'])}"
        f" ({facts['train_images']:,} training images, accuracy on {facts['val_images']:,} val images at the end of a"
        f" run; test is not read); the baseline's images have {options['image_size']} px."
        f" {_progress(study, outcomes)} Settings of all runs: {escape_markdown(settings)}.",
        "## How large is the noise?",
        "\n".join(f"- {line}" for line in conclusions(all_rounds, facts["val_images"])),
    ]
    if any(current.noise for current in all_rounds):
        parts += [_noise_table(all_rounds), _NOISE_LEGEND]
    rows = [
        _row(rank, standing, all_rounds[standing.rung].steps, facts["baseline_macs"])
        for rank, standing in enumerate(standings, 1)
    ]
    parts += ["## The networks", markdown_table(_HEADS, rows)]
    if facts["equal"]:
        parts += [f"Left out, as they round to the same network and image size: {_equal(facts['equal'])}."]
    parts += ["## Measured on", _provenance(outcomes)]
    return "\n\n".join(parts) + "\n"


_NOISE_LEGEND = (
    "In points of accuracy. Over seeds: standard deviation of a network's runs, pooled over the networks as if all were"
    " equally noisy. Of means: standard deviation of the networks' means; by noise: what it would be if all were equal."
    " Share: of a single run's variance that the networks explain (ICC). p: that all networks are equal, and that all"
    " seeds are (F tests). Two, any two: smallest difference significant at 95% between two networks chosen beforehand"
    " (t) and between any two (Tukey), paired by seed."
)


def _noise_table(all_rounds: Sequence[Round]) -> str:
    heads = ["networks", "steps", "seeds", "over seeds", "of means", "by noise", "share", "p", "p, seeds", "two"]
    rows = [
        [
            *(str(noise.num_networks), str(current.steps), str(noise.num_seeds)),
            *(f"{value:.2f}" for value in (noise.within, noise.between, noise.between_by_noise, noise.icc)),
            *(shown_p(noise.p_value), shown_p(noise.seed_p_value)),
            *(f"{noise.significant():.2f}", f"{noise.significant_for_all():.2f}"),
            str(len(current.equal_to_best())),
        ]
        for current in all_rounds
        if (noise := current.noise) is not None
    ]
    return markdown_table([*heads, "any two", "not told from the best"], rows)


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
        "" if mean is None or mean.low is None else f"{mean.low:.2f} to {mean.high:.2f}",
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
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0] if rows else ["rank"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def figures(study: Study, all_rounds: Sequence[Round], outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """The numbers of the report, for a file of figures; accuracies and their noise in percentage points."""
    done = [outcome for outcome in outcomes.values() if not outcome.failed]
    return {
        "options": dict(study.options),
        "settings": dict(study.settings),
        "facts": dict(study.facts),
        "runs": {"planned": len(study.runs), "done": len(done), "failed": len(outcomes) - len(done)},
        "conclusions": conclusions(all_rounds, study.facts["val_images"]),
        "noise": [
            {
                "steps": current.steps,
                **asdict(current.noise),
                "significant_for_two": current.noise.significant(),
                "significant_for_any_two": current.noise.significant_for_all(),
                "not_told_from_best": len(current.equal_to_best()),
            }
            for current in all_rounds
            if current.noise is not None
        ],
        "networks": [
            {**asdict(standing.trial), "round": standing.rung, "scores": standing.scores, "mean": asdict(standing.mean)}
            for standing in ranked(all_rounds)
            if standing.mean is not None
        ],
        "processor_seconds": round(sum(outcome.processor_seconds for outcome in done), 1),
        "hardware": _distinct(outcome.hardware for outcome in done),
        "versions": _distinct(outcome.versions for outcome in done),
        "git_commits": _distinct(outcome.git_commit for outcome in done),
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _progress(study: Study, outcomes: Mapping[str, Outcome]) -> str:
    failed = sum(outcome.failed for outcome in outcomes.values())
    done = len(outcomes) - failed
    return f"{done} of {len(study.runs)} planned runs are done" + (f", {failed} failed." if failed else ".")


def _equal(points: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{p['alpha']:g}, {p['beta']:g}, {p['gamma']:g} (as {p['kept']})" for p in points)


def _provenance(outcomes: Mapping[str, Outcome]) -> str:
    done = [outcome for outcome in outcomes.values() if not outcome.failed]
    if not done:
        return "Nothing yet."
    places = {", ".join(o.hardware["gpus"]) or f"{o.hardware['cores']} cores of {o.hardware['cpu']}" for o in done}
    versions = {", ".join(f"{name} {version}" for name, version in outcome.versions.items()) for outcome in done}
    seconds = sum(outcome.processor_seconds for outcome in done)
    lines = {
        "hardware": "; ".join(sorted(places)),
        "processor time": f"{seconds:,.0f} s for {len(done)} runs",
        "versions": "; ".join(sorted(versions)),
        "commit": "; ".join(sorted({str(outcome.git_commit) for outcome in done})),
    }
    return "\n".join(f"- {name}: {escape_markdown(text)}" for name, text in lines.items())
