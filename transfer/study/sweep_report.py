"""The report of a sweep: the curves of Figure 3, 4 or 8, and what of them is noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from transfer.ledger.tables import escape_csv, escape_markdown, markdown_table
from transfer.study.conclusions import noise_lines, val_line
from transfer.study.noise import Noise
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
from transfer.study.sweep import Point

_TITLES = {3: "one dimension at a time", 4: "width for four depths and resolutions", 8: "one dimension, and all three"}
_HEADS = (
    *("along", "value", "d", "w", "r", "px", "multiply-adds (M)", "of the baseline's", "parameters (M)", "seeds"),
    *("val accuracy (%)", "95% interval"),
)
Curves = dict[str, list[tuple[Point, Standing]]]


def write_sweep_report(folder: Path, study: Study, outcomes: Mapping[str, Outcome]) -> list[Path]:
    """Writes report.md, report.csv and, once a run is done and matplotlib is there, report.png; gives their paths."""
    [only] = study_rounds(study, outcomes)
    curves = read_curves(study, only)
    texts = {
        "report.md": markdown_report(folder.resolve().name, study, only, outcomes),
        "report.csv": csv_report(study, only),
    }
    written = write_texts(folder, texts)
    if any(standing.mean for standing in only.standings):
        try:
            from transfer.study.sweep_figure import draw_curves
        except ImportError:
            return written
        written.append(draw_curves(study.options["figure"], curves, folder / "report.png"))
    return written


def read_curves(study: Study, only: Round) -> Curves:
    """The points of each curve with their networks, in ascending order."""
    standings = {standing.trial.name: standing for standing in only.standings}
    points = (Point(**point) for point in study.facts["points"])
    return {
        series: [(point, standings[point.trial]) for point in group]
        for series, group in groupby(points, lambda point: point.series)
    }


def markdown_report(name: str, study: Study, only: Round, outcomes: Mapping[str, Outcome]) -> str:
    """The whole report.

    Args:
        name: of the study.
    """
    options, facts = study.options, study.facts
    curves = read_curves(study, only)
    baseline, figure = escape_markdown(options["baseline"]), options["figure"]
    parts = [
        f"# {escape_markdown(name)}: {baseline} scaled as in Figure {figure}, {_TITLES[figure]}",
        f"{describe_task(study, outcomes)} Each run has {only.steps} steps.",
        "## What it says",
        "\n".join(f"- {line}" for line in _lines(only, curves, facts["val_images"])),
        *noise_table([only]),
        "## The curves",
        markdown_table(_HEADS, [_row(*pair, study) for curve in curves.values() for pair in curve]),
        *("## Measured on", provenance(outcomes)),
    ]
    return "\n\n".join(parts) + "\n"


def _lines(only: Round, curves: Curves, num_images: int) -> Iterator[str]:
    """A sentence each, for a reader who knows no statistics."""
    if missing := len(only.standings) - len(only.complete):
        yield f"{missing} of {len(only.standings)} networks lack a run: they are left out of the comparisons."
    curves = {series: [pair for pair in curve if pair[1] in only.complete] for series, curve in curves.items()}
    for series, curve in curves.items():
        done = [(point, standing.mean.value) for point, standing in curve if standing.mean]
        if len(done) > 1:
            (first, start), (best, top) = done[0], max(done, key=lambda pair: pair[1])
            gain = f", {_told(top - start, only.noise)}" if best != first else ": the first point is the best"
            yield f"{series}: {start:.2f}% at {first.value:g}, at most {top:.2f}% at {best.value:g}{gain}."
    yield from _against_compound(curves, only.noise)
    if only.noise is None:
        yield "There is no measure of the noise, which takes two networks with two seeds each: all may be chance."
    else:
        yield from noise_lines(only.noise)
    yield val_line(num_images)
    yield (
        "The paper trained each network on ImageNet to the end. Runs as short as these favour networks that learn fast,"
        " so where a curve bends or falls here says little about where it would after long training."
    )


def _against_compound(curves: Curves, noise: Noise | None) -> Iterator[str]:
    """Each compound network against the network of each single dimension that is nearest to it in multiply-adds."""
    for point, standing in curves.get("compound", []):
        if point.value == 0 or standing.mean is None:
            continue
        for series, curve in curves.items():
            rivals = [rival for _, rival in curve]
            if series == "compound" or not rivals:
                continue
            cost = standing.trial.num_macs
            rival = min(rivals, key=lambda r: max(r.trial.num_macs / cost, cost / r.trial.num_macs))
            if rival.mean and rival != standing:
                yield (
                    f"compound, phi = {point.value:g} ({cost / 1e6:.0f} M multiply-adds), against {series} alone"
                    f" ({rival.trial.num_macs / 1e6:.0f} M): {_told(standing.mean.value - rival.mean.value, noise)}."
                )


def _told(difference: float, noise: Noise | None) -> str:
    text = f"{difference:+.2f} points"
    if noise is None:
        return text
    told = abs(difference) > noise.significant_for_all()
    return f"{text}, {'more' if told else 'no more'} than the noise explains"


def sweep_figures(study: Study, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """The numbers of the report; see `figures`."""
    [only] = all_rounds = study_rounds(study, outcomes)
    lines = list(_lines(only, read_curves(study, only), study.facts["val_images"]))
    return figures(study, all_rounds, lines, outcomes)


def _row(point: Point, standing: Standing, study: Study) -> list[str]:
    trial, mean = standing.trial, standing.mean
    failed = f", {standing.num_failed} failed" if standing.num_failed else ""
    return [
        *(point.series, *(f"{value:g}" for value in (point.value, point.depth, point.width, point.resolution))),
        *(str(trial.image_size), f"{trial.num_macs / 1e6:.1f}"),
        *(f"{trial.num_macs / study.facts['baseline_macs']:.2f}", f"{trial.num_parameters / 1e6:.2f}"),
        *(f"{len(standing.scores)}{failed}", "" if mean is None else f"{mean.value:.2f}", shown_interval(mean)),
    ]


def csv_report(study: Study, only: Round) -> str:
    """A line for each point of each curve; accuracies in percent, what is not known is empty."""
    rows: list[dict[str, Any]] = []
    for curve in read_curves(study, only).values():
        for point, standing in curve:
            trial, mean = standing.trial, standing.mean
            rows.append(
                {
                    "figure": study.options["figure"],
                    **{name: value for name, value in vars(point).items() if name != "trial"},
                    "backbone": escape_csv(trial.backbone),
                    "macs": trial.num_macs,
                    "macs_of_baseline": round(trial.num_macs / study.facts["baseline_macs"], 4),
                    "parameters": trial.num_parameters,
                    "image_size": trial.image_size,
                    "steps": only.steps,
                    "seeds": len(standing.scores),
                    "failed": standing.num_failed,
                    "val": mean and round(mean.value, 4),
                    "val_low": mean and mean.low and round(mean.low, 4),
                    "val_high": mean and mean.high and round(mean.high, 4),
                    "scores": " ".join(f"{score:.4f}" for score in standing.scores.values()),
                }
            )
    return csv_text(rows)
