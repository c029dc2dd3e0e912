"""The sections of the page about a table: a row each, in the order in which they are shown."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup, escape

from transfer.config.durations import format_duration
from transfer.experiments.table.entries import Entry
from transfer.experiments.table.results import Result, settings
from transfer.experiments.table.verdicts import MARGIN, STATUS_RULE, Status, Table5Line
from transfer.paper import (
    DATASET_TITLES,
    PARAMETERS_WITHOUT_CLASSIFIER,
    TABLE5_COLUMNS,
    TRANSFER_MISPRINTS,
    Published,
    paper_results,
)
from transfer.report.charts import Chart, Series, draw_lines
from transfer.report.layout import Context, Section, render_single
from transfer.report.metric_sections import describe_devices, metric_name
from transfer.report.table_comparisons import averages_section, differences_section
from transfer.report.table_content import Row, TableContent
from transfer.report.verdict import Verdict
from transfer.statistics import Mean

_WIDEST = 3.0  # points of difference to either side that have room
_MOST_OPEN = 40  # cells whose list is open at first
_PROTOCOLS_IN_CHART = 3
_BESIDE = 1.05  # from one protocol to the next in a chart, as a factor of the parameters


def render_table(content: TableContent) -> str:
    """Return the page about a table as HTML."""
    name = content.folder.resolve().name
    facts = f"A table of {len(content.entries):,} cells: a dataset, a network, a protocol and a seed each"
    return render_single(f"Table {name}", facts, SECTIONS, content, [str(content.folder)])


@dataclass(frozen=True)
class Span:
    """A difference from a published value, on a scale of `_WIDEST` points to either side; places in percent of it.

    Attributes:
        value: the difference in points.
        left, width: of its interval.
        dot: of the difference.
        band_left, band_width: of what an interval must lie in to count as reproduced.
    """

    value: float
    left: float
    width: float
    dot: float
    band_left: float
    band_width: float


def place_difference(mean: Mean, published: float) -> Span:
    """Return where a mean of seeds, in percent, lies beside a published value."""

    def place(points: float) -> float:
        return 50 + 50 * max(-1.0, min(1.0, points / _WIDEST))

    value = mean.value - published
    ends = [value if end is None else end - published for end in (mean.low, mean.high)]
    left, right, low, high = map(place, (*ends, -MARGIN, MARGIN))
    return Span(value, left, right - left, place(value), low, high - low)


def _verdict(content: TableContent) -> Context:
    counts = {kind: content.count(kind) for kind in ("done", "failed", "not run")}
    rest = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count and kind != "done")
    facts = []
    if compared := Counter(row.status.name for row in content.rows if row.published is not None):
        named = ", ".join(f"{count} {name}" for name, count in compared.most_common())
        facts.append(f"Of {compared.total()} results that have a published value: {named}.")
    warnings = []
    if again := sum((entry.result.get("test_reads") or 0) > 1 for entry in content.entries):
        cells = "1 cell" if again == 1 else f"{again} cells"
        warnings.append(f"Of {cells}, test has been read more than once: the figures may be too good.")
    verdict = Verdict(
        f"{counts['done']} of {len(content.entries)}", f"cells are done{rest and f'; {rest}'}.", facts, warnings
    )
    return {"verdict": verdict, "remarks": []}


def _results(content: TableContent) -> Context:
    return {"rows": [_result_cells(row) for row in content.rows], "margin": MARGIN, "widest": _WIDEST}


def _result_cells(row: Row) -> dict[str, Any]:
    result, mean = row.result, row.result.quoted
    metric = result.quoted_metric
    seeds = [value for entry in result.done if (value := entry.accuracy(metric)) is not None]
    return {
        "dataset": DATASET_TITLES.get(result.dataset, result.dataset),
        "network": f"{result.backbone}, {result.protocol}",
        "mean": mean,
        "metric": metric_name(metric) if mean else "",
        "seeds": ", ".join(f"{value:.2f}" for value in seeds),
        "count": f"{len(result.done)} of {len(result.entries)}",
        "published": row.published,
        "span": _span(row.status, mean, row.published),
        "status": row.status,
        "notes": row.notes,
    }


def _span(status: Status, mean: Mean | None, published: Published | None) -> Span | None:
    if status.difference is None or mean is None or published is None:
        return None
    return place_difference(mean, published.accuracy)


def _table5(content: TableContent) -> Context:
    if not content.table5:
        return None
    parts = [
        (title, [_table5_cells(line) for line in content.table5 if line.paper.column == column])
        for column, title in TABLE5_COLUMNS.items()
    ]
    return {"parts": parts, "misprints": TRANSFER_MISPRINTS}


def _table5_cells(line: Table5Line) -> dict[str, Any]:
    paper, result = line.paper, line.result
    return {
        "dataset": DATASET_TITLES[paper.dataset],
        "paper": paper,
        "protocol": result.protocol if result else "",
        "mean": result.quoted if result else None,
        "num_parameters": result.num_parameters if result else None,
        "ratio": line.ratio,
        "status": line.status.name,
    }


def _figures(content: TableContent) -> Context:
    charts = [
        chart
        for dataset, group in groupby(content.rows, lambda row: row.result.dataset)
        for chart in _draw_dataset(dataset, [row.result for row in group])
    ]
    return {"charts": charts} if charts else None


def _draw_dataset(dataset: str, results: list[Result]) -> list[Chart]:
    """Return charts of a dataset's accuracies by the parameters, with three protocols each."""
    measured = [result for result in results if result.num_parameters and result.quoted]
    protocols = list(dict.fromkeys(result.protocol for result in measured))
    metric = metric_name(measured[0].quoted_metric) if measured else ""
    title = f"{DATASET_TITLES.get(dataset, dataset)}: {metric}"
    charts = []
    for first in range(0, len(protocols), _PROTOCOLS_IN_CHART):
        shown = protocols[first : first + _PROTOCOLS_IN_CHART]
        lines = [
            _draw_protocol(name, [one for one in measured if one.protocol == name], place)
            for place, name in enumerate(shown)
        ]
        if printed := _draw_published(dataset):
            lines.append(printed)
        labels = ("million parameters without the classifier", "")
        charts.append(draw_lines(title, labels, lines, percent=True, log=True))
    return charts


def _draw_protocol(name: str, results: list[Result], place: int) -> Series:
    means = [(result, mean) for result in results if (mean := result.quoted) is not None]
    ends = [[mean.value if end is None else end for end in (mean.low, mean.high)] for _, mean in means]
    return Series(
        name,
        [_BESIDE**place * (result.num_parameters or 0) / 1e6 for result, _ in means],
        [mean.value / 100 for _, mean in means],
        joined=False,
        low=[low / 100 for low, _ in ends],
        high=[high / 100 for _, high in ends],
        labels=[result.backbone for result, _ in means] if place == 0 else (),
    )


def _draw_published(dataset: str) -> Series | None:
    """Return the EfficientNets of the paper's Table 5, if it has the dataset."""
    cells = paper_results(dataset)
    millions = [PARAMETERS_WITHOUT_CLASSIFIER[cell.backbone] / 1e6 / _BESIDE for cell in cells]
    accuracies = [cell.accuracy / 100 for cell in cells]
    names = [cell.backbone for cell in cells]
    return Series("printed in Table 5", millions, accuracies, joined=False, labels=names) if cells else None


def _cells(content: TableContent) -> Context:
    return {
        "rows": [_cell(content, entry) for entry in content.entries],
        "is_open": len(content.entries) <= _MOST_OPEN,
    }


def _cell(content: TableContent, entry: Entry) -> dict[str, Any]:
    result = entry.result
    metric = result.get("quoted_metric") or "top1"
    return {
        "entry": entry,
        "accuracy": entry.accuracy(metric),
        "val": entry.accuracy(metric, "val"),
        "chosen": settings(result.get("chosen") or {}),
        "search": result.get("search") or "",
        "num_trials": result.get("num_trials"),
        "test_reads": result.get("test_reads"),
        "page": content.final_page(entry),
    }


def _failures(content: TableContent) -> Context:
    failed = [entry for entry in content.entries if entry.status == "failed"]
    command = shlex.join(["efficientnet-transfer", "table", "run", str(content.folder), "--retry_failed"])
    found = [(entry.id, *entry.error.partition("\n")[::2]) for entry in failed]
    return {"failures": found, "command": command} if found else None


def _reads(content: TableContent) -> Context:
    done = [entry for entry in content.entries if entry.status == "done"]
    counts = Counter(entry.result.get("test_reads") for entry in done)
    words = {None: "an unknown number of times", 1: "once"}
    found = [
        f"of {count} {'cell' if count == 1 else 'cells'}, test was read {words.get(reads, f'{reads} times')}"
        for reads, count in sorted(counts.items(), key=str)
    ]
    return {"found": found} if found else None


def _costs(content: TableContent) -> Context:
    done = [entry.result for entry in content.entries if entry.status == "done"]
    devices = [describe_devices(result.get("hardware"))[1] for result in done]
    versions = [
        ", ".join(f"{name} {version}" for name, version in (result.get("versions") or {}).items() if version)
        for result in done
    ]
    gpu_hours = sum(result.total("gpu_hours") for result in content.results)
    seconds = sum(result.total("train_seconds") for result in content.results)
    rows = {
        "training, trials included": format_duration(seconds) if seconds else "",
        "GPU time": f"{gpu_hours:.2f} GPU hours" if gpu_hours else "",
        "computed on": "; ".join(dict.fromkeys(filter(None, devices))),
        "versions": "; ".join(dict.fromkeys(filter(None, versions))),
        "commit": "; ".join(dict.fromkeys(commit for result in done if (commit := result.get("git_commit")))),
    }
    return {"rows": {name: value for name, value in rows.items() if value}} if done else None


def _rule(content: TableContent) -> Context:
    if not any(row.published for row in content.rows):
        return None
    return {"rule": Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(STATUS_RULE))))}


def _command(content: TableContent) -> Context:
    words = [["efficientnet-transfer", "table", verb, str(content.folder)] for verb in ("run", "report")]
    return {"command": "\n".join(map(shlex.join, words))}


SECTIONS: tuple[Section[TableContent], ...] = (
    Section("verdict", "Verdict", _verdict),
    Section("results", "Results", _results),
    Section("figures", "Accuracy and parameters", _figures),
    Section("table5", "Table 5 of the paper beside ours", _table5),
    Section("averages", "Averages over datasets", averages_section),
    Section("differences", "Differences of settings", differences_section),
    Section("failures", "Failures", _failures),
    Section("cells", "Cells, and what was chosen on val", _cells),
    Section("reads", "The test split", _reads),
    Section("cost", "Time and devices", _costs),
    Section("rule", "How the status comes about", _rule),
    Section("command", "Commands that go on with it, and that write this page", _command),
)
