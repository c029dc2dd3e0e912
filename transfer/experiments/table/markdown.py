"""The report as Markdown, in which names that come from files are escaped."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.experiments.table.averages import AVERAGES, Average
from transfer.experiments.table.cited import CITED_RULE, cited_table
from transfer.experiments.table.differences import Comparison
from transfer.experiments.table.results import METRICS, Result, settings
from transfer.experiments.table.verdicts import (
    STATUS_RULE,
    Status,
    Table5Line,
    published_of,
    remaining_notes,
    status,
)
from transfer.markdown import escape_markdown, markdown_table
from transfer.paper import DATASET_TITLES, PRINTED_GEO_MEANS, TABLE5, TABLE5_COLUMNS, TRANSFER_MISPRINTS, geo_mean
from transfer.statistics import Mean

METRIC_TITLES = {"top1": "top-1", "mean_per_class": "mean per class", "map": "mAP", "map_11": "11-point mAP"}
DIFFERENCES = """\
Every two protocols of a backbone are compared, and every two backbones of a protocol that follow each other by their
parameters. The interval (95%, of this comparison alone) is for other seeds and other images like these: variances of
seeds and images as crossed random effects, with Student's t (Gallas et al. 2007, doi 10.1364/JOSAA.24.000B70; Hillis
2014, doi 10.1002/sim.5926). Seeds that both sides have are taken in pairs. A single seed says nothing of others: its
interval is for other images, and for the other side's seeds; a linear probe needs no second seed. An average over
datasets is for these datasets. All p-values of this section are corrected together by Holm's method (1979), and the
verdict is at 5% of them, so that one in twenty such sections errs once or more where nothing differs.
`report_differences.csv` also has the interval of the hierarchical bootstrap (Sellam et al. 2022, arXiv 2106.16163).
Where seeds matter it is too narrow: with 3 seeds it covered the truth in 86% of simulated comparisons, the one above in
94% (benchmarks/seed_intervals_cpu.json)."""


def markdown_report(
    name: str,
    results: Sequence[Result],
    lines: Sequence[Table5Line] = (),
    comparisons: Sequence[Comparison] = (),
    averages: Sequence[Average] = (),
) -> str:
    """Return the whole report as Markdown; parts of which there is nothing are left out.

    Args:
        name: name of the table.
        results: its results.
        lines: lines of Table 5, see `table5_lines`.
        comparisons: see `compare_settings`.
        averages: see `average_results`.
    """
    entries = [entry for result in results for entry in result.entries]
    counts = {kind: sum(entry.status == kind for entry in entries) for kind in ("done", "failed", "not run")}
    parts = [
        f"# Table {escape_markdown(name)}",
        f"{len(entries)} cells: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()) + ". "
        f"{sum(result.total('gpu_hours') for result in results):.1f} GPU-hours. "
        "Accuracies are of the test split, in percent, with the 95% interval over the seeds (Student's t; one seed has "
        "none). Parameters do not include the classifier.",
    ]
    if lines:
        parts.append("## Table 5 of the paper beside ours")
        for column, title in TABLE5_COLUMNS.items():
            parts += [f"### {title}", _table5(column, [line for line in lines if line.paper.column == column])]
        misprints = [f"- {one.place}: {one.printed}. Rather: {one.correct}." for one in TRANSFER_MISPRINTS]
        parts += ["Misprints of the paper:", "\n".join(misprints)]
    parts += ["## All results", _all_results(results)]
    if averages:
        parts += ["## Averages over datasets", _averages(averages), AVERAGES]
    if comparisons:
        parts += ["## Differences", _differences(comparisons), DIFFERENCES]
    if any(published_of(result) for result in results):
        parts += ["## How the status comes about", STATUS_RULE]
    if published := cited_table(result.dataset for result in results):
        parts += ["## Published on these datasets", published, CITED_RULE]
    parts += ["## Measured on", _provenance(results)]
    return "\n\n".join(parts) + "\n"


def _table5(column: str, lines: Sequence[Table5Line]) -> str:
    rows = []
    for line in lines:
        paper, result = line.paper, line.result
        peer = f"{paper.peer} {paper.peer_accuracy:.1f}" + _millions(paper.peer_millions)
        rows.append(
            [
                DATASET_TITLES[paper.dataset],
                peer,
                f"{paper.backbone} {paper.accuracy:.1f}" + _millions(paper.millions),
                _times(paper.printed_ratio),
                escape_markdown(result.protocol) if result else "",
                _seeds(result) if result else "",
                *(_accuracy(result, metric) if result else "" for metric in ("top1", "mean_per_class")),
                f"{result.num_parameters:,}" if result and result.num_parameters else "",
                _times(line.ratio),
                *_verdict(result, line.status),
            ]
        )
    by_cell = {line.paper: line.ratio for line in lines if line.ratio is not None}
    total = sum(paper.printed_ratio is not None for paper in TABLE5 if paper.column == column)
    own, over = "", f"over 0 of {total} cells"
    if by_cell:
        own = _times(geo_mean(by_cell.values()))
        same = geo_mean(paper.ratio for paper in by_cell if paper.ratio is not None)
        over = f"over {len(by_cell)} of {total} cells; the paper's own parameters for these: {_times(same)}"
    rows.append(["**geo-mean**", "", "", _times(PRINTED_GEO_MEANS[column]), *[""] * 5, own, "", over])
    heads = ["dataset", "set against", "the paper's", "ratio", "our protocol", "seeds", "top-1", "mean per class"]
    return markdown_table([*heads, "parameters", "ratio", "status", "notes"], rows)


def _all_results(results: Sequence[Result]) -> str:
    measured = [metric for metric in METRICS if any(result.mean(metric) for result in results)]
    rows = [
        [
            *(escape_markdown(text) for text in (result.dataset, result.backbone, result.protocol)),
            _seeds(result),
            *(_accuracy(result, metric) for metric in measured),
            f"{result.num_parameters:,}" if result.num_parameters else "",
            escape_markdown("; ".join(settings(chosen) for chosen in result.distinct("chosen"))),
            f"{result.total('gpu_hours'):.2f}",
            _published(result),
            *_verdict(result, status(result)),
        ]
        for result in results
    ]
    titles = [METRIC_TITLES[metric] for metric in measured]
    heads = [
        "dataset",
        "backbone",
        "protocol",
        "seeds",
        *titles,
        "parameters",
        "chosen",
        "GPU-hours",
        "published",
        "status",
        "notes",
    ]
    return markdown_table(heads, rows)


def _averages(averages: Sequence[Average]) -> str:
    rows = [
        [
            escape_markdown(one.backbone),
            escape_markdown(one.protocol),
            escape_markdown(f"average over {len(one.datasets)} datasets: {', '.join(one.datasets)}"),
            str(one.mean.count) if one.mean.count else "none in common",
            interval_text(one.mean),
            "" if one.log_odds is None else f"{one.log_odds:.2f} ({one.accuracy_of_log_odds:.2f})",
        ]
        for one in averages
    ]
    heads = ["backbone", "protocol", "datasets", "seeds", "mean of accuracies", "mean of log odds"]
    return markdown_table(heads, rows)


def _differences(comparisons: Sequence[Comparison]) -> str:
    rows = [
        [
            escape_markdown(datasets_text(one.datasets)),
            *(escape_markdown(" by ".join(setting)) for setting in (one.a, one.b)),
            *_difference(one),
            one.verdict if one.difference else escape_markdown(f"not compared: {one.reason}"),
        ]
        for one in comparisons
    ]
    heads = ["dataset", "A", "B", "metric", "seeds", "A less B, points", "p", "p, corrected", "verdict"]
    return markdown_table(heads, rows)


def _difference(one: Comparison) -> list[str]:
    metric = escape_markdown(" and ".join(METRIC_TITLES.get(name, name) for name in one.metrics))
    if one.difference is None or one.corrected is None:
        return [metric, "", "", "", ""]
    found = one.difference
    value, low, high = (f"{100 * share:+z.2f}" for share in (found.value, found.low, found.high))
    return [metric, seeds_text(one), f"{value} ({low} to {high})", f"{found.p_value:.2g}", f"{one.corrected:.2g}"]


def datasets_text(datasets: Sequence[str]) -> str:
    """Return the name of a comparison's dataset, or how many they are and which."""
    return datasets[0] if len(datasets) == 1 else f"average over {len(datasets)} datasets: {', '.join(datasets)}"


def seeds_text(comparison: Comparison) -> str:
    """Return the numbers of seeds of a comparison's difference; empty without one."""
    if comparison.difference is None:
        return ""
    a, b = comparison.difference.num_seeds
    return f"{a} in pairs" if comparison.difference.paired else f"{a} and {b}"


def _verdict(result: Result | None, found: Status) -> list[str]:
    """Return the status and the remaining notes as cells."""
    notes = remaining_notes(result, found) if result else []
    return [escape_markdown(str(found)), escape_markdown("; ".join(notes))]


def _published(result: Result) -> str:
    """Return the value that a result is compared with, and its table."""
    published = published_of(result)
    return "" if published is None else escape_markdown(f"{published.accuracy:.2f} ({published.source})")


def _provenance(results: Sequence[Result]) -> str:
    found: dict[str, dict[str, None]] = {"hardware": {}, "versions": {}, "commit": {}}
    for result in results:
        for entry in result.done:
            hardware = entry.result.get("hardware") or {}
            devices = hardware.get("gpus") or [f"{hardware.get('cores')} cores of {hardware.get('cpu')}"]
            found["hardware"][", ".join(map(str, devices))] = None
            versions = entry.result.get("versions") or {}
            found["versions"][", ".join(f"{name} {version}" for name, version in versions.items())] = None
            found["commit"][str(entry.result.get("git_commit"))] = None
    lines = [f"- {name}: {escape_markdown('; '.join(values))}" for name, values in found.items() if values]
    return "\n".join(lines) or "Nothing yet."


def _seeds(result: Result) -> str:
    done, planned = len(result.done), len(result.entries)
    return str(done) if done == planned else f"{done} of {planned}"


def _accuracy(result: Result, metric: str) -> str:
    mean = result.mean(metric)
    if mean is None:
        return ""
    return f"**{interval_text(mean)}**" if metric == result.quoted_metric else interval_text(mean)


def interval_text(mean: Mean) -> str:
    """Return a mean with its interval, if it has one."""
    return f"{mean.value:.2f}" if mean.low is None else f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def _millions(millions: float | None) -> str:
    return "" if millions is None else f", {millions:g}M"


def _times(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"
