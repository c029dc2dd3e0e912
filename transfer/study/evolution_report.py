"""The report of an evolution: its networks by the search objective, and the best against the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer.backbones.names import get_variant
from transfer.ledger.tables import escape_csv, escape_markdown, markdown_table
from transfer.statistics import mean_interval
from transfer.study.conclusions import noise_lines, val_line
from transfer.study.evolution import Stages, objective, study_space
from transfer.study.one_run import Outcome
from transfer.study.plan import Study
from transfer.study.ranking import Round, Standing, study_rounds
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
    *("rank", "network", "parent", "stages that differ from the baseline's", "multiply-adds (M)", "of the baseline's"),
    *("parameters (M)", "seeds", "val accuracy (%)", "objective (%)", "95% interval"),
)
_LETTERS = {"repeats": "r", "kernel_size": "k", "expand_ratio": "e", "se_ratio": "se"}


def write_evolution_report(folder: Path, study: Study, outcomes: Mapping[str, Outcome]) -> list[Path]:
    """Writes report.md, report.csv and, once a run is done and matplotlib is there, report.png; gives their paths."""
    only = by_objective(study, outcomes)
    texts = {
        "report.md": markdown_report(folder.resolve().name, study, only, outcomes),
        "report.csv": csv_report(study, only),
    }
    written = write_texts(folder, texts)
    if any(standing.mean for standing in only.standings):
        try:
            from transfer.study.evolution_figure import draw_evolution
        except ImportError:
            return written
        written.append(draw_evolution(study, only, folder / "report.png"))
    return written


def by_objective(study: Study, outcomes: Mapping[str, Outcome]) -> Round:
    """All networks, best first: the scores, their means and their noise are of the objective, in percent."""
    trials = {run.id: study.trial(run.trial) for run in study.runs}
    scored = {
        name: replace(outcome, score=objective(study, trials[name], outcome.score)) if outcome.score else outcome
        for name, outcome in outcomes.items()
    }
    [only] = study_rounds(study, scored)
    return only


def markdown_report(name: str, study: Study, only: Round, outcomes: Mapping[str, Outcome]) -> str:
    """The whole report.

    Args:
        name: of the study.
        only: see `by_objective`.
    """
    options, target = study.options, study.facts["target_macs"]
    parts = [
        f"# {escape_markdown(name)}: blocks of {escape_markdown(options['baseline'])} by regularised evolution",
        f"{describe_task(study, outcomes)} Each run has {only.steps} steps.",
        f"{len(study.trials)} of {study_space(study).size:,} possible networks were planned: the baseline and"
        f" {min(options['population'], options['networks']) - 1} random ones, then children, each of the best of"
        f" {options['sample']} that are drawn from the last {options['population']} networks.",
        f"Objective: accuracy * (multiply-adds / T)^{options['exponent']:g} with T = {target / 1e6:,.1f} million; the"
        " paper's T is 400 million, for images of 224 px. T multiplies every objective by the same number: it does not"
        " change the order.",
        *("## What it says", "\n".join(f"- {line}" for line in _lines(study, only)), *noise_table([only])),
        *("## The networks", markdown_table(_HEADS, [_row(n, s, study) for n, s in enumerate(only.standings, 1)])),
        "r: repeats, k: kernel size, e: expansion, se: squeeze-excitation. `report.csv` has the whole names, which are"
        " backbones like any other.",
        *("## Measured on", provenance(outcomes)),
    ]
    return "\n\n".join(parts) + "\n"


def _lines(study: Study, only: Round) -> Iterator[str]:
    """A sentence each, for a reader who knows no statistics."""
    options, noise = study.options, only.noise
    if missing := len(only.standings) - len(only.complete):
        yield f"{missing} of {len(only.standings)} networks lack a run: they are left out of the comparisons."
    best = next(iter(only.complete), None)
    baseline = next((standing for standing in only.complete if standing.trial is study.trials[0]), None)
    if best is None or baseline is None or best.mean is None or baseline.mean is None:
        yield "The baseline is not done yet."
    elif best is baseline:
        yield f"Nothing that was tried is better than the baseline (objective {best.mean.value:.2f})."
    else:
        yield (
            f"The best is {best.trial.name}: objective {best.mean.value:.2f}, the baseline's {baseline.mean.value:.2f};"
            f" with the same seeds {_paired(best, baseline)}."
        )
        if noise is not None:
            least = noise.significant_for_all()
            told = best.mean.value - baseline.mean.value > least
            yield (
                f"It is the best of {len(only.complete)}, so partly a lucky one: it would have to be {least:.2f}"
                f" ahead, and {'is' if told else 'is not: it cannot be told from the baseline'}. Train both with other"
                " seeds to know."
            )
    if line := _progress(study, only):
        yield line
    if noise is None:
        yield "There is no measure of the noise, which takes two networks with two seeds each: all may be chance."
    else:
        yield from noise_lines(noise)
    yield val_line(study.facts["val_images"])
    yield (
        f"This is a small search: {len(study.trials)} networks of {options['steps']} steps each. The paper's follows"
        " MnasNet's, which tried about 8,000 networks, each trained for 5 epochs of ImageNet, by reinforcement"
        " learning. What so few and short runs find need not be better on another task, or after longer training."
    )


def _paired(best: Standing, baseline: Standing) -> str:
    mean = mean_interval([score - baseline.scores[seed] for seed, score in best.scores.items()])
    return f"{mean.value:+.2f}" + (f" (95% interval {shown_interval(mean)})" if mean.low is not None else "")


def _progress(study: Study, only: Round) -> str | None:
    """Whether the last networks are better than the first ones."""
    size = study.options["population"]
    values = {standing.trial.name: standing.mean.value for standing in only.complete if standing.mean}
    first, last = ([trial.name for trial in part] for part in (study.trials[1:size], study.trials[size:][-size:]))
    if not first or not last or not {*first, *last} <= values.keys():
        return None
    before, after = (sum(values[name] for name in part) / len(part) for part in (first, last))
    return f"The {len(first)} random networks have {before:.2f} on average, the last {len(last)} children {after:.2f}."


def evolution_figures(study: Study, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """The numbers of the report; see `figures`. What is ranked is the objective."""
    only = by_objective(study, outcomes)
    return figures(study, [only], list(_lines(study, only)), outcomes)


def _row(rank: int, standing: Standing, study: Study) -> list[str]:
    trial, mean = standing.trial, standing.mean
    failed = f", {standing.num_failed} failed" if standing.num_failed else ""
    values = (_accuracy(study, standing), mean and mean.value)
    return [
        *(str(rank), trial.name, parent_name(study, standing)),
        differences(get_variant(trial.backbone).baseline.stages, study_space(study).baseline),
        *(f"{trial.num_macs / 1e6:.1f}", f"{trial.num_macs / study.facts['baseline_macs']:.2f}"),
        *(f"{trial.num_parameters / 1e6:.2f}", f"{len(standing.scores)}{failed}"),
        *("" if value is None else f"{value:.2f}" for value in values),
        shown_interval(mean),
    ]


def csv_report(study: Study, only: Round) -> str:
    """A line for each network, best first; accuracies and objectives in percent, what is not known is empty."""
    rows: list[dict[str, Any]] = []
    for rank, standing in enumerate(only.standings, 1):
        trial, mean = standing.trial, standing.mean
        accuracy = _accuracy(study, standing)
        rows.append(
            {
                "rank": rank,
                "network": trial.name,
                "parent": parent_name(study, standing),
                "backbone": escape_csv(trial.backbone),
                "macs": trial.num_macs,
                "macs_of_baseline": round(trial.num_macs / study.facts["baseline_macs"], 4),
                "parameters": trial.num_parameters,
                "seeds": len(standing.scores),
                "failed": standing.num_failed,
                "val": accuracy and round(accuracy, 4),
                "objective": mean and round(mean.value, 4),
                "objective_low": mean and mean.low and round(mean.low, 4),
                "objective_high": mean and mean.high and round(mean.high, 4),
                "objectives": " ".join(f"{score:.4f}" for score in standing.scores.values()),
            }
        )
    return csv_text(rows)


def parent_name(study: Study, standing: Standing) -> str:
    """Of a child; what was there first has none."""
    parent = standing.trial.values.get("parent")
    return "" if parent is None else study.trials[int(parent)].name


def _accuracy(study: Study, standing: Standing) -> float | None:
    """In percent: the objective is the accuracy times what the network alone decides."""
    return None if standing.mean is None else standing.mean.value / objective(study, standing.trial, 1.0)


def differences(stages: Stages, baseline: Stages) -> str:
    """What differs: `2: k5, 4: r3 se0`, stages counted from 1."""
    shown = []
    for number, (row, own) in enumerate(zip(stages, baseline, strict=True), start=1):
        pairs = [(letter, getattr(row, name), getattr(own, name)) for name, letter in _LETTERS.items()]
        if changed := [f"{letter}{value:g}" for letter, value, present in pairs if value != present]:
            shown.append(f"{number}: {' '.join(changed)}")
    return ", ".join(shown) or "none: the baseline"
