"""The report as CSV files, in which names that come from files are escaped; accuracies are in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transfer.experiments.table.differences import Comparison
from transfer.experiments.table.results import METRICS, Result, settings
from transfer.experiments.table.verdicts import MARGIN, Table5Line, paper_cell, published_of, status
from transfer.markdown import csv_text
from transfer.paper import PaperResult


def csv_report(results: Sequence[Result], lines: Sequence[Table5Line]) -> str:
    """Return a CSV line for each dataset, backbone and protocol, and for each cell of Table 5 that was not planned.

    Accuracies are in percent to 4 decimals; what is unknown is empty.
    """
    rows = [_row(result, paper_cell(result)) for result in results]
    rows += [_row(None, line.paper) for line in lines if line.result is None]
    return csv_text(rows)


def csv_seeds(results: Sequence[Result]) -> str:
    """Return a CSV line for each planned cell: one seed of a dataset, backbone and protocol, run or not.

    Accuracies are in percent to 4 decimals; what is unknown is empty.
    """
    rows = []
    for result in results:
        for entry in result.entries:
            found, chosen = entry.result, entry.result.get("chosen")
            quoted = found.get("quoted_metric")
            rows.append(
                {
                    "cell": entry.id,
                    "dataset": entry.dataset,
                    "backbone": entry.backbone,
                    "protocol": entry.protocol,
                    "seed": entry.seed,
                    "status": entry.status,
                    "quoted_metric": quoted,
                    **{metric: _rounded(entry.accuracy(metric)) for metric in METRICS},
                    "val_quoted": _rounded(entry.accuracy(quoted, "val")) if quoted else None,
                    "steps": found.get("steps"),
                    "chosen": None if chosen is None else settings(chosen),
                    "num_trials": found.get("num_trials"),
                    "search": found.get("search"),
                    "test_reads": found.get("test_reads"),
                    "image_size": entry.image_size,
                    "train_seconds": found.get("train_seconds"),
                    "gpu_hours": found.get("gpu_hours"),
                    "error": found.get("error"),
                }
            )
    return csv_text(rows)


def csv_differences(comparisons: Sequence[Comparison]) -> str:
    """Return a CSV line for each comparison; differences are in points to 4 decimals, with both intervals.

    P-values have 6 digits: the further ones differ between processors.
    """
    rows = []
    for one in comparisons:
        found, bootstrap = one.difference, one.difference and one.difference.bootstrap
        rows.append(
            {
                "datasets": " ".join(one.datasets),
                "backbone_a": one.a[0],
                "protocol_a": one.a[1],
                "backbone_b": one.b[0],
                "protocol_b": one.b[1],
                "metrics": " ".join(one.metrics),
                "seeds_a": found and found.num_seeds[0],
                "seeds_b": found and found.num_seeds[1],
                "paired": found and found.paired,
                "difference": found and _rounded(100 * found.value),
                "low": found and _rounded(100 * found.low),
                "high": found and _rounded(100 * found.high),
                "standard_error": found and _rounded(100 * found.variance**0.5),
                "degrees_of_freedom": found and _rounded(found.degrees),
                "bootstrap_low": bootstrap and _rounded(100 * bootstrap.low),
                "bootstrap_high": bootstrap and _rounded(100 * bootstrap.high),
                "p_value": found and _six_digits(found.p_value),
                "p_value_holm": _six_digits(one.corrected),
                "verdict": one.verdict,
                "reason": one.reason,
            }
        )
    return csv_text(rows)


def _row(result: Result | None, paper: PaperResult | None) -> dict[str, Any]:
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


def _six_digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
