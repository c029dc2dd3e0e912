"""The report of a study, finished or not; a module for each kind of study says what is particular to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transfer.experiments.scaling.conclusions import shown_p
from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study, Trial
from transfer.experiments.scaling.ranking import RankedRound, Standing, ranked
from transfer.files import write_text
from transfer.markdown import csv_text, escape_markdown, markdown_table
from transfer.statistics import Mean

NOISE_LEGEND = (
    "In points. Over seeds: standard deviation of a network's runs, pooled as if all networks were equally"
    " noisy. Of means: standard deviation of the networks' means; by noise: what it would be if all were equal. Share:"
    " of a single run's variance that the networks explain (ICC). p: that all networks are equal, and that all seeds"
    " are (F tests). Two, any two: smallest difference significant at 95% between two networks chosen beforehand"
    " (t) and between any two (Tukey), paired by seed."
)


@dataclass(frozen=True)
class Report:
    """What is particular to the report of a kind of study.

    Attributes:
        title: title after the study's name.
        intro: paragraphs after the description of the task.
        conclusions: sentences for a reader who knows no statistics.
        rounds: rounds of the study, ranked; those of an evolution have objectives in place of scores.
        table: Markdown table of the networks or points.
        notes: paragraphs below the table.
        rows: rows of the CSV file; None is an empty value.
        draw: writes the picture and returns its files.
    """

    title: str
    intro: Sequence[str]
    conclusions: Sequence[str]
    rounds: Sequence[RankedRound]
    table: str
    notes: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    draw: Callable[[Path], list[Path]]


def write_files(folder: Path, study: Study, outcomes: Mapping[str, Outcome], report: Report) -> list[Path]:
    """Write report.md, report.csv and, once a run is done, report.png, .svg and .pdf; return their paths."""
    texts = {
        "report.md": markdown(folder.resolve().name, study, outcomes, report),
        "report.csv": csv_text(report.rows),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    written = [folder / name for name in texts]
    if any(standing.mean for current in report.rounds for standing in current.standings):
        written += report.draw(folder / "report.png")
    return written


def markdown(name: str, study: Study, outcomes: Mapping[str, Outcome], report: Report) -> str:
    """Return the whole report as Markdown.

    Args:
        name: name of the study.
        study: the study.
        outcomes: what came of its runs, by their ids.
        report: what is particular to its kind.
    """
    parts = [
        f"# {escape_markdown(name)}: {escape_markdown(report.title)}",
        *(describe_task(study, outcomes), *report.intro),
        *("## What it says", "\n".join(f"- {line}" for line in report.conclusions), *noise_table(report.rounds)),
        *("## What was compared", report.table, *report.notes),
        *("## Measured on", provenance(outcomes)),
    ]
    return "\n\n".join(parts) + "\n"


COST_HEADS = ("multiply-adds (M)", "of the baseline's", "parameters (M)")


def cost_cells(trial: Trial, study: Study) -> list[str]:
    """Return the cells below `COST_HEADS`."""
    share = trial.num_macs / study.facts["baseline_macs"]
    return [f"{trial.num_macs / 1e6:.1f}", f"{share:.2f}", f"{trial.num_parameters / 1e6:.2f}"]


def cost_columns(trial: Trial, study: Study) -> dict[str, Any]:
    """Return the columns of a CSV file that say what a network costs."""
    return {
        "macs": trial.num_macs,
        "macs_of_baseline": round(trial.num_macs / study.facts["baseline_macs"], 4),
        "parameters": trial.num_parameters,
        "image_size": trial.image_size,
    }


def score_cells(standing: Standing) -> list[str]:
    """Return seeds, mean and 95% interval as cells; unknown ones are empty."""
    mean = standing.mean
    failed = f", {standing.num_failed} failed" if standing.num_failed else ""
    return [f"{len(standing.scores)}{failed}", "" if mean is None else f"{mean.value:.2f}", shown_interval(mean)]


def score_columns(standing: Standing, name: str) -> dict[str, Any]:
    """Return the columns of a CSV file that hold the seeds and the score in percent.

    Args:
        standing: a trial with its scores.
        name: name of the score's column.
    """
    mean = standing.mean
    return {
        "seeds": len(standing.scores),
        "failed": standing.num_failed,
        name: mean and round(mean.value, 4),
        f"{name}_low": mean and mean.low and round(mean.low, 4),
        f"{name}_high": mean and mean.high and round(mean.high, 4),
        "scores": " ".join(f"{score:.4f}" for score in standing.scores.values()),
    }


def describe_task(study: Study, outcomes: Mapping[str, Outcome]) -> str:
    """Return a paragraph about what every network was trained on, and how many runs are done."""
    options, facts = study.options, study.facts
    failed = sum(outcome.failed for outcome in outcomes.values())
    progress = f"{len(outcomes) - failed} of {len(study.runs)} planned runs are done"
    progress += f", {failed} failed" if failed else ""
    settings = ", ".join(f"{key} {value}" for key, value in study.settings.items())
    return (
        f"{len(study.trials)} networks from random weights on {escape_markdown(options['dataset'])}"
        f" ({facts['train_images']:,} training images, accuracy on {facts['val_images']:,} val images at the end of a"
        f" run; test is not read); the baseline's images have {options['image_size']} px."
        f" {progress}. Settings of all runs: {escape_markdown(settings)}."
    )


def noise_table(all_rounds: Sequence[RankedRound]) -> list[str]:
    """Return a table with a line for each round whose noise is known, and its legend; empty where none is known."""
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
    return [markdown_table([*heads, "any two", "not told from the best"], rows), NOISE_LEGEND] if rows else []


def shown_interval(mean: Mean | None) -> str:
    """Return a 95% interval as text, empty where there is none."""
    return "" if mean is None or mean.low is None else f"{mean.low:.2f} to {mean.high:.2f}"


def provenance(outcomes: Mapping[str, Outcome]) -> str:
    """Return a list of the hardware, processor time, versions and commits of the runs that are done."""
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


def figures(study: Study, outcomes: Mapping[str, Outcome], report: Report) -> dict[str, Any]:
    """Return the numbers of a report for a JSON file; scores and their noise are in percent."""
    done = [outcome for outcome in outcomes.values() if not outcome.failed]
    return {
        "options": dict(study.options),
        "settings": dict(study.settings),
        "facts": dict(study.facts),
        "runs": {"planned": len(study.runs), "done": len(done), "failed": len(outcomes) - len(done)},
        "conclusions": list(report.conclusions),
        "noise": [
            {
                "steps": current.steps,
                **asdict(current.noise),
                "significant_for_two": current.noise.significant(),
                "significant_for_any_two": current.noise.significant_for_all(),
                "not_told_from_best": len(current.equal_to_best()),
            }
            for current in report.rounds
            if current.noise is not None
        ],
        "networks": [
            {
                **asdict(standing.trial),
                "round": standing.round,
                "scores": standing.scores,
                "mean": asdict(standing.mean),
            }
            for standing in ranked(report.rounds)
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
