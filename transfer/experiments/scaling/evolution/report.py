"""The report of an evolution: its networks by the search objective, and the best against the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer.experiments.scaling.conclusions import missing_lines, noise_lines, val_line
from transfer.experiments.scaling.evolution.search import Stages, objective, study_space
from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study
from transfer.experiments.scaling.ranking import RankedRound, Standing, rank_rounds
from transfer.experiments.scaling.report import (
    COST_HEADS,
    Report,
    cost_cells,
    cost_columns,
    score_cells,
    score_columns,
)
from transfer.markdown import markdown_table
from transfer.networks.registry import get_variant
from transfer.statistics import mean_interval

_HEADS = (
    *("rank", "network", "parent", "stages that differ from the baseline's", *COST_HEADS),
    *("val accuracy (%)", "seeds", "objective (%)", "95% interval"),
)
_LETTERS = {"repeats": "r", "kernel_size": "k", "expand_ratio": "e", "se_ratio": "se"}


def evolution_report(study: Study, outcomes: Mapping[str, Outcome]) -> Report:
    """Return the report of an evolution, which lists its networks by their objective, best first."""
    options, target = study.options, study.facts["target_macs"]
    only = by_objective(study, outcomes)

    def draw(path: Path) -> list[Path]:
        from transfer.experiments.scaling.evolution.figure import draw_evolution

        return draw_evolution(study, only, path)

    return Report(
        title=f"blocks of {options['baseline']} by regularised evolution",
        intro=[
            f"Each run has {only.steps} steps. {len(study.trials)} of {study_space(study).size:,} possible networks"
            f" were planned: the baseline and {min(options['population'], options['networks']) - 1} random ones, then"
            f" children, each of the best of {options['sample']} that are drawn from the last {options['population']}"
            " networks.",
            f"Objective: accuracy * (multiply-adds / T)^{options['exponent']:g} with T = {target / 1e6:,.1f} million;"
            " the paper's T is 400 million, for images of 224 px. T multiplies every objective by the same number: it"
            " does not change the order.",
        ],
        conclusions=list(_lines(study, only)),
        rounds=[only],
        table=markdown_table(_HEADS, [_cells(n, s, study) for n, s in enumerate(only.standings, 1)]),
        notes=[
            "r: repeats, k: kernel size, e: expansion, se: squeeze-excitation. `report.csv` has the whole names, which"
            " are backbones like any other."
        ],
        rows=[_columns(n, s, study) for n, s in enumerate(only.standings, 1)],
        draw=draw,
    )


def by_objective(study: Study, outcomes: Mapping[str, Outcome]) -> RankedRound:
    """Rank all networks by their objective in percent, in place of the accuracy."""
    trials = {run.id: study.trial(run.trial) for run in study.runs}
    scored = {
        name: replace(outcome, score=objective(study, trials[name], outcome.score)) if outcome.score else outcome
        for name, outcome in outcomes.items()
    }
    [only] = rank_rounds(study, scored)
    return only


def _lines(study: Study, only: RankedRound) -> Iterator[str]:
    """Yield the conclusions, a sentence each, for a reader who knows no statistics."""
    options, noise = study.options, only.noise
    yield from missing_lines(only)
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
    yield from noise_lines(noise)
    yield val_line(study.facts["val_images"])
    yield (
        f"This is a small search: {len(study.trials)} networks of {options['steps']} steps each. The paper's follows"
        " MnasNet's, which tried about 8,000 networks, each trained for 5 epochs of ImageNet, by reinforcement"
        " learning. What so few and short runs find need not be better on another task, or after longer training."
    )


def _paired(best: Standing, baseline: Standing) -> str:
    mean = mean_interval([score - baseline.scores[seed] for seed, score in best.scores.items()])
    interval = "" if mean.low is None else f" (95% interval {mean.low:+z.2f} to {mean.high:+z.2f})"
    return f"{mean.value:+z.2f}{interval}"


def _progress(study: Study, only: RankedRound) -> str | None:
    """Return a sentence that compares the last networks with the first ones, or None before they are done."""
    size = study.options["population"]
    values = {standing.trial.name: standing.mean.value for standing in only.complete if standing.mean}
    first, last = ([trial.name for trial in part] for part in (study.trials[1:size], study.trials[size:][-size:]))
    if not first or not last or not {*first, *last} <= values.keys():
        return None
    before, after = (sum(values[name] for name in part) / len(part) for part in (first, last))
    return f"The {len(first)} random networks have {before:.2f} on average, the last {len(last)} children {after:.2f}."


def _cells(rank: int, standing: Standing, study: Study) -> list[str]:
    trial, accuracy = standing.trial, _accuracy(study, standing)
    return [
        *(str(rank), trial.name, parent_name(study, standing)),
        differences(get_variant(trial.backbone).baseline.stages, study_space(study).baseline),
        *(*cost_cells(trial, study), "" if accuracy is None else f"{accuracy:.2f}", *score_cells(standing)),
    ]


def _columns(rank: int, standing: Standing, study: Study) -> dict[str, Any]:
    trial, accuracy = standing.trial, _accuracy(study, standing)
    return {
        "rank": rank,
        "network": trial.name,
        "parent": parent_name(study, standing),
        "backbone": trial.backbone,
        **cost_columns(trial, study),
        "val": accuracy and round(accuracy, 4),
        **score_columns(standing, "objective"),
    }


def parent_name(study: Study, standing: Standing) -> str:
    """Return the name of a child's parent, empty for the first networks."""
    parent = standing.trial.values.get("parent")
    return "" if parent is None else study.trials[int(parent)].name


def _accuracy(study: Study, standing: Standing) -> float | None:
    """Return the accuracy in percent: the objective without the factor that the network alone decides."""
    return None if standing.mean is None else standing.mean.value / objective(study, standing.trial, 1.0)


def differences(stages: Stages, baseline: Stages) -> str:
    """Return which fields differ, such as `2: k5, 4: r3 se0`, with stages counted from 1."""
    shown = []
    for number, (row, own) in enumerate(zip(stages, baseline, strict=True), start=1):
        pairs = [(letter, getattr(row, name), getattr(own, name)) for name, letter in _LETTERS.items()]
        if changed := [f"{letter}{value:g}" for letter, value, present in pairs if value != present]:
            shown.append(f"{number}: {' '.join(changed)}")
    return ", ".join(shown) or "none: the baseline"
