"""The report of an ablation: the curves of Figure 3, 4 or 8, and how much of them is noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from transfer.experiments.scaling.ablation import Point
from transfer.experiments.scaling.conclusions import missing_lines, noise_lines, val_line
from transfer.experiments.scaling.noise import Noise
from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study
from transfer.experiments.scaling.ranking import RankedRound, Standing, rank_rounds
from transfer.experiments.scaling.report import COST_HEADS, Report, cost_cells, cost_columns, score_cells, score_columns
from transfer.markdown import markdown_table

Curves = dict[str, list[tuple[Point, Standing]]]
_TITLES = {3: "one dimension at a time", 4: "width for four depths and resolutions", 8: "one dimension, and all three"}
_HEADS = (
    *("along", "value", "d", "w", "r", "px", *COST_HEADS),
    *("seeds", "val accuracy (%)", "95% interval"),
)


def ablation_report(study: Study, outcomes: Mapping[str, Outcome]) -> Report:
    """Return the report of an ablation, which lists its points curve by curve."""
    [only] = all_rounds = rank_rounds(study, outcomes)
    curves = read_curves(study, only)
    points = [pair for curve in curves.values() for pair in curve]
    figure = study.options["figure"]

    def draw(path: Path) -> list[Path]:
        from transfer.experiments.scaling.figures import draw_curves

        return draw_curves(figure, curves, path)

    return Report(
        title=f"{study.options['baseline']} scaled as in Figure {figure}, {_TITLES[figure]}",
        intro=[f"Each run has {only.steps} steps."],
        conclusions=list(_lines(only, curves, study.facts["val_images"])),
        rounds=all_rounds,
        table=markdown_table(_HEADS, [_cells(*pair, study) for pair in points]),
        notes=(),
        rows=[_columns(*pair, only.steps, study) for pair in points],
        draw=draw,
    )


def read_curves(study: Study, only: RankedRound) -> Curves:
    """Return the points of each curve with their networks, in ascending order."""
    standings = {standing.trial.name: standing for standing in only.standings}
    points = (Point(**point) for point in study.facts["points"])
    return {
        series: [(point, standings[point.trial]) for point in group]
        for series, group in groupby(points, lambda point: point.series)
    }


def _lines(only: RankedRound, curves: Curves, num_images: int) -> Iterator[str]:
    """Yield the conclusions, a sentence each, for a reader who knows no statistics."""
    yield from missing_lines(only)
    curves = {series: [pair for pair in curve if pair[1] in only.complete] for series, curve in curves.items()}
    for series, curve in curves.items():
        done = [(point, standing.mean.value) for point, standing in curve if standing.mean]
        if len(done) > 1:
            (first, start), (best, top) = done[0], max(done, key=lambda pair: pair[1])
            gain = f", {_told(top - start, only.noise)}" if best != first else ": the first point is the best"
            yield f"{series}: {start:.2f}% at {first.value:g}, at most {top:.2f}% at {best.value:g}{gain}."
    yield from _against_compound(curves, only.noise)
    yield from noise_lines(only.noise)
    yield val_line(num_images)
    yield (
        "The paper trained each network on ImageNet to the end. Runs as short as these favour networks that learn fast,"
        " so where a curve bends or falls here says little about where it would after long training."
    )


def _against_compound(curves: Curves, noise: Noise | None) -> Iterator[str]:
    """Compare each compound network with the nearest network, in multiply-adds, of each single dimension."""
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
    text = f"{difference:+z.2f} points"
    if noise is None:
        return text
    told = abs(difference) > noise.significant_for_all()
    return f"{text}, {'more' if told else 'no more'} than the noise explains"


def _cells(point: Point, standing: Standing, study: Study) -> list[str]:
    return [
        *(point.series, *(f"{value:g}" for value in (point.value, point.depth, point.width, point.resolution))),
        *(str(standing.trial.image_size), *cost_cells(standing.trial, study), *score_cells(standing)),
    ]


def _columns(point: Point, standing: Standing, steps: int, study: Study) -> dict[str, Any]:
    return {
        "figure": study.options["figure"],
        **{name: value for name, value in vars(point).items() if name != "trial"},
        "backbone": standing.trial.backbone,
        **cost_columns(standing.trial, study),
        "steps": steps,
        **score_columns(standing, "val"),
    }
