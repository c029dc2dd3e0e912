"""The report as Markdown and as CSV. Names that come from files are escaped in both."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from transfer.experiments.table.cited import CITED_RULE, cited_table
from transfer.experiments.table.results import METRICS, Result, settings
from transfer.experiments.table.verdicts import (
    MARGIN,
    STATUS_RULE,
    Status,
    Table5Line,
    paper_cell,
    published_of,
    status,
)
from transfer.markdown import escape_csv, escape_markdown, markdown_table
from transfer.paper import DATASET_TITLES, MISPRINTS, PRINTED_GEO_MEANS, TABLE5, PaperResult, geo_mean

_METRIC_TITLES = {"top1": "top-1", "mean_per_class": "mean per class", "map": "mAP", "map_11": "11-point mAP"}
_COLUMN_TITLES = {"public": "Against the best public models", "best": "Against the best reported results"}


def markdown_report(name: str, results: Sequence[Result], lines: Sequence[Table5Line]) -> str:
    """Return the whole report as Markdown.

    Args:
        name: name of the table.
        results: its results.
        lines: lines of Table 5, see `table5_lines`; empty leaves that part out.
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
        for column, title in _COLUMN_TITLES.items():
            parts += [f"### {title}", _table5(column, [line for line in lines if line.paper.column == column])]
        misprints = [
            f"- {misprint.place}: {misprint.printed}. Rather: {misprint.correct}."
            for misprint in MISPRINTS
            if misprint.place in ("Table 5", "Table 6")
        ]
        parts += ["Misprints of the paper:", "\n".join(misprints)]
    parts += ["## All results", _all_results(results)]
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
    titles = [_METRIC_TITLES[metric] for metric in measured]
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


def _verdict(result: Result | None, found: Status) -> list[str]:
    """Return the status, and the notes that it does not contain already, as cells."""
    notes = [note for note in result.notes if note not in found.detail] if result else []
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
    text = f"{mean.value:.2f}" if mean.low is None else f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"
    return f"**{text}**" if metric == result.quoted_metric else text


def _millions(millions: float | None) -> str:
    return "" if millions is None else f", {millions:g}M"


def _times(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def csv_report(results: Sequence[Result], lines: Sequence[Table5Line]) -> str:
    """Return a CSV line for each dataset, backbone and protocol, and for each cell of Table 5 that was not planned.

    Accuracies are in percent to 4 decimals; what is unknown is empty.
    """
    rows = [_csv_row(result, paper_cell(result)) for result in results]
    rows += [_csv_row(None, line.paper) for line in lines if line.result is None]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0] if rows else ["dataset"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: escape_csv(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    )
    return file.getvalue()


def _csv_row(result: Result | None, paper: PaperResult | None) -> dict[str, Any]:
    found, published = status(result), result and published_of(result)
    means: dict[str, float | None] = {}
    for metric in METRICS:
        mean = result.mean(metric) if result else None
        low_high = (mean.low, mean.high) if mean else (None, None)
        means[metric] = _rounded(mean.value) if mean else None
        means[f"{metric}_low"], means[f"{metric}_high"] = map(_rounded, low_high)
    ratio = Table5Line(paper, result).ratio if paper else None
    return {
        "dataset": result.dataset if result else paper and paper.dataset,
        "backbone": result.backbone if result else paper and paper.backbone,
        "protocol": result.protocol if result else None,
        "seeds_planned": len(result.entries) if result else 0,
        "seeds_done": len(result.done) if result else 0,
        "seeds_failed": len(result.failed) if result else 0,
        **means,
        "quoted_metric": result.quoted_metric if result and result.done else None,
        "status": found.name,
        "detail": found.detail,
        "difference": _rounded(found.difference),
        "margin": MARGIN if published else None,
        "published": published and published.accuracy,
        "published_in": published and published.source,
        "paper_accuracy": paper and paper.accuracy,
        "paper_column": paper and paper.column,
        "peer": paper and paper.peer,
        "peer_accuracy": paper and paper.peer_accuracy,
        "peer_millions": paper and paper.peer_millions,
        "printed_ratio": paper and paper.printed_ratio,
        "num_parameters_without_classifier": result and result.num_parameters,
        "ratio": _rounded(ratio),
        "chosen": result and "; ".join(settings(chosen) for chosen in result.distinct("chosen")),
        "notes": result and "; ".join(result.notes),
        "train_seconds": result and _rounded(result.total("train_seconds")),
        "gpu_hours": result and _rounded(result.total("gpu_hours")),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
