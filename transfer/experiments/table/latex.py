"""The report as tables in LaTeX, for a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transfer.errors import printable
from transfer.experiments.table.averages import Average
from transfer.experiments.table.differences import Comparison
from transfer.experiments.table.markdown import METRIC_TITLES, datasets_text, seeds_text
from transfer.experiments.table.results import Result
from transfer.experiments.table.verdicts import published_of, status
from transfer.paper import DATASET_TITLES, FURTHER_TITLES
from transfer.statistics import Mean

_HEAD = r"""% Tables for a paper: \usepackage{booktabs}, then \input{report}.
"""
_TITLES = DATASET_TITLES | FURTHER_TITLES
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    **{character: f"\\{character}" for character in "{}$&#%_"},
}


def escape_latex(text: str) -> str:
    """Return the text as one line that LaTeX typesets as it is; letters beyond Latin become escapes."""
    line = printable(" ".join(text.split()))
    line = "".join(c if c < "\u0180" else c.encode("ascii", "backslashreplace").decode() for c in line)
    escaped = re.sub(r"[\\~^<>|\"`{}$&#%_]", lambda found: _SPECIAL[found[0]], line)
    return re.sub(r"-(?=-)", "-{}", escaped)  # two in a row are a dash


def latex_report(results: Sequence[Result], comparisons: Sequence[Comparison], averages: Sequence[Average]) -> str:
    """Return the tables of the results, their averages and their differences, with `booktabs`.

    Accuracies are in percent; 95% intervals stand in columns of their own. What is empty is left out.
    """
    parts = [_HEAD]
    if done := [result for result in results if result.done]:
        parts.append(_results(done))
    if averages:
        parts.append(_averages(averages))
    if compared := [one for one in comparisons if one.difference is not None]:
        parts.append(_differences(compared))
    return "\n".join(parts)


def _results(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        published = published_of(result)
        rows.append(
            [
                escape_latex(_TITLES.get(result.dataset, result.dataset)),
                escape_latex(result.backbone),
                escape_latex(result.protocol),
                str(len(result.done)),
                escape_latex(METRIC_TITLES.get(result.quoted_metric, result.quoted_metric)),
                *_mean(result.quoted),
                "" if published is None else f"{published.accuracy:.2f}",
                escape_latex(status(result).name),
            ]
        )
    heads = [
        "Dataset",
        "Backbone",
        "Protocol",
        "Seeds",
        "Metric",
        "Test (\\%)",
        r"95\,\% interval",
        "Published",
        "Status",
    ]
    caption = r"Accuracy on the test split, with the 95\,\% interval over seeds (Student's $t$)."
    return _table("lllrlrrrl", heads, rows, caption, "results")


def _averages(averages: Sequence[Average]) -> str:
    rows = [
        [
            escape_latex(one.backbone),
            escape_latex(one.protocol),
            str(len(one.datasets)),
            *_mean(one.mean),
            "" if one.log_odds is None else f"${one.log_odds:z.2f}$",
            "" if one.log_odds is None else f"{one.accuracy_of_log_odds:.2f}",
        ]
        for one in averages
    ]
    heads = ["Backbone", "Protocol", "Datasets", r"Mean (\%)", r"95\,\% interval", "Mean log odds", r"as accuracy (\%)"]
    return _table("llrrrrr", heads, rows, "Averages over datasets.", "averages")


def _differences(comparisons: Sequence[Comparison]) -> str:
    rows = []
    for one in comparisons:
        assert one.difference is not None and one.corrected is not None
        value, low, high = (
            _signed(100 * share) for share in (one.difference.value, one.difference.low, one.difference.high)
        )
        p = "$<$0.001" if one.corrected < 0.001 else f"{one.corrected:.3f}"
        name = _TITLES.get(one.datasets[0], one.datasets[0])
        rows.append(
            [
                escape_latex(name if len(one.datasets) == 1 else datasets_text(one.datasets)),
                *(escape_latex(" by ".join(setting)) for setting in (one.a, one.b)),
                seeds_text(one),
                value,
                f"{low} to {high}",
                p,
            ]
        )
    heads = ["Dataset", "A", "B", "Seeds", r"$A - B$ (points)", r"95\,\% interval", "$p$ (Holm)"]
    caption = r"Differences over seeds and test images (crossed random effects, Student's $t$); $p$ corrected by Holm."
    return _table("lllrrrr", heads, rows, caption, "differences")


def _mean(mean: Mean | None) -> list[str]:
    if mean is None:
        return ["", ""]
    return [f"{mean.value:.2f}", "" if mean.low is None else f"{mean.low:.2f}--{mean.high:.2f}"]


def _signed(value: float) -> str:
    return f"${value:+z.2f}$"


def _table(columns: str, heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
