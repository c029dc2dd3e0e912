"""The sections about figures: curves, metrics, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transfer.config.durations import format_duration
from transfer.report.charts import Chart, Series, draw_lines
from transfer.report.run_content import RunContent
from transfer.report.training_cost import describe_training
from transfer.runs.results import Results

_LOSSES = ("loss", "ece")  # no shares of images
_STATISTICS = {  # columns of BatchNorm's check, and what their lines are called
    "train/top1_batch_statistics": "the batch's statistics",
    "train/top1_running_statistics": "running statistics, as in evaluation",
}
_NAMES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_per_class": "mean accuracy per class",
    "map": "mean average precision",
    "map_11": "mean average precision at 11 recalls",
    "f1": "F1 of the labels",
    "exact_match": "all labels right",
    "ece": "expected calibration error",
    "loss": "loss (nats)",
}


def metric_name(name: str) -> str:
    """Return a metric's name in words."""
    return _NAMES.get(name, name)


def curves_section(content: RunContent) -> Mapping[str, Any] | None:
    """Return the curves of loss, accuracy and learning rate over the validations of a run."""
    rows, results = content.validations, content.results
    if not rows:
        return None
    epochs = [row.get("epoch", math.nan) for row in rows]
    axis = "epoch" if len(set(epochs)) == len(epochs) else "step"
    x = [row.get(axis, math.nan) for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    best = _best(results, rows, x)

    def chart(title: str, unit: str, names: list[str], percent: bool = False) -> Chart | None:
        lines = [Series(_line_name(name), x, [row.get(name, math.nan) for row in rows]) for name in names[:4]]
        return draw_lines(title, (axis, unit), lines, percent, best) if lines else None

    compared = [name for name in _STATISTICS if name in columns]
    of = {name: name.rpartition("/")[2] for name in columns if "/" in name and name not in compared}
    quoted = [name for name, metric in of.items() if metric == results.quoted_metric]
    shares = quoted + [name for name, metric in of.items() if metric not in (*_LOSSES, "top5", results.quoted_metric)]
    charts = [
        chart("Loss", "loss (nats)", [name for name, metric in of.items() if metric == "loss"]),
        chart("Accuracy", "", shares, percent=True),
        chart("BatchNorm: last training batch", "", compared, percent=True),
        chart("Learning rate", "rate of the head", ["lr"] if "lr" in columns else []),
    ]
    return {
        "charts": [chart for chart in charts if chart],
        "best": best,
        "axis": axis,
        "monitor": results.monitor,
        "shows_train": "train/top1" in columns,
        "shows_statistics": bool(compared),
    }


def _best(results: Results, rows: list[dict[str, float]], x: list[float]) -> float | None:
    """Return where the best checkpoint was kept: at the last validation with its metrics."""
    kept = {f"val/{name}": value for name, value in results.metrics.get("val", {}).items()}
    found = [place for place, row in zip(x, rows, strict=True) if kept and kept.items() <= row.items()]
    return found[-1] if found else None


def _line_name(column: str) -> str:
    if column in _STATISTICS:
        return _STATISTICS[column]
    stage, _, metric = column.partition("/")
    return f"{stage}, {metric_name(metric).partition(' (')[0]}" if metric else column


def metrics_section(content: RunContent) -> Mapping[str, Any] | None:
    """Return the metrics of each split with their intervals."""
    results = content.results
    splits = [name for name in ("train", "val", "test") if results.metrics.get(name)]
    if not splits:
        return None
    names = list(dict.fromkeys(name for split in splits for name in results.metrics[split]))
    names.sort(key=lambda name: (name in _LOSSES, name != results.quoted_metric))
    rows = []
    for name in names:
        cells = []
        for split in splits:
            value, interval = results.metrics[split].get(name), results.intervals.get(split, {}).get(name)
            cells.append(("" if value is None else format_metric(name, value), interval.percent() if interval else ""))
        rows.append((metric_name(name), cells))
    sizes = [results.splits[split].size if split in results.splits else None for split in splits]
    return {
        "splits": list(zip(splits, sizes, strict=True)),
        "rows": rows,
        "has_intervals": bool(results.intervals),
        "is_running": content.progress is not None,
    }


def is_share(name: str) -> bool:
    """Return whether a metric is a share of images or classes."""
    return name not in _LOSSES


def format_metric(name: str, value: float) -> str:
    """Return the value of a metric with its unit."""
    return f"{100 * value:.2f}%" if is_share(name) else f"{value:.4f}"


def cost_section(content: RunContent) -> Mapping[str, Any] | None:
    """Return what a run took and what its network is like."""
    results = content.results
    gpus, devices = describe_devices(results.environment.get("hardware"))
    memory, seconds, probe = results.peak_memory_bytes, results.train_seconds, results.probe
    rows = {
        "training": _time(seconds),
        "features and fits": probe and f"{_time(probe.extract_seconds)} and {_time(probe.fit_seconds)}",
        "the whole run": _time(results.wall_seconds),
        "GPU time": gpus and seconds and f"{seconds * results.world_size / 3600:.2f} GPU hours",
        "speed in training": results.images_per_second and f"{results.images_per_second:,.0f} images/s",
        "multiply-adds of training": describe_training(results),
        "steps": results.steps and f"{results.steps:,} of {results.global_batch_size or '?'} images",
        "peak memory": memory and f"{memory / 2**30:.2f} GiB{' of the GPU' if gpus else ''}",
        "parameters": results.num_parameters and f"{results.num_parameters / 1e6:.2f} million",
        "image size": results.image_size and f"{results.image_size} px",
        "computed on": devices,
        "processes": results.world_size > 1 and str(results.world_size),
        "precision": results.precision,
    }
    return {"rows": {name: value for name, value in rows.items() if value}}


def _time(seconds: float | None) -> str:
    return "" if seconds is None or not math.isfinite(seconds) else format_duration(seconds)


def describe_devices(hardware: Any) -> tuple[bool, str]:
    """Return whether GPUs computed, and the devices in words; empty where nobody wrote them down."""
    if not isinstance(hardware, dict):
        return False, ""
    if gpus := hardware.get("gpus"):
        return True, ", ".join(map(str, gpus)) if isinstance(gpus, list) else str(gpus)
    return False, f"{hardware.get('cores', '?')} cores of {hardware.get('cpu') or 'a CPU'}"
