"""What the reports of all studies have: how far it is, its noise, where it was measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transfer.ledger.tables import escape_markdown, markdown_table
from transfer.statistics import Mean
from transfer.study.conclusions import shown_p
from transfer.study.one_run import Outcome
from transfer.study.plan import Study
from transfer.study.ranking import Round, ranked

NOISE_LEGEND = (
    "In points. Over seeds: standard deviation of a network's runs, pooled as if all networks were equally"
    " noisy. Of means: standard deviation of the networks' means; by noise: what it would be if all were equal. Share:"
    " of a single run's variance that the networks explain (ICC). p: that all networks are equal, and that all seeds"
    " are (F tests). Two, any two: smallest difference significant at 95% between two networks chosen beforehand"
    " (t) and between any two (Tukey), paired by seed."
)


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Writes files by their names; gives their paths."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return [folder / name for name in texts]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of rows with the same keys; what is None is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def describe_task(study: Study, outcomes: Mapping[str, Outcome]) -> str:
    """What every network was trained on, and how many runs are done."""
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


def noise_table(all_rounds: Sequence[Round]) -> list[str]:
    """A line for each round whose noise is known, and what the columns mean; nothing where none is known."""
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
    """A 95% interval, or nothing."""
    return "" if mean is None or mean.low is None else f"{mean.low:.2f} to {mean.high:.2f}"


def provenance(outcomes: Mapping[str, Outcome]) -> str:
    """Hardware, processor time, versions and commits of the runs that are done."""
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


def figures(
    study: Study, all_rounds: Sequence[Round], conclusions: Sequence[str], outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """The numbers of a report, for a file of figures; what is ranked, and its noise, in percentage points.

    Args:
        conclusions: the report's sentences.
    """
    done = [outcome for outcome in outcomes.values() if not outcome.failed]
    return {
        "options": dict(study.options),
        "settings": dict(study.settings),
        "facts": dict(study.facts),
        "runs": {"planned": len(study.runs), "done": len(done), "failed": len(outcomes) - len(done)},
        "conclusions": list(conclusions),
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
