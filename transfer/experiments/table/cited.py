"""What is published on the datasets of a report, whatever the protocol: a table to read beside its own results."""

from __future__ import annotations

from collections.abc import Iterable

from transfer.markdown import escape_markdown, markdown_table
from transfer.paper import DATASET_TITLES, FURTHER_TITLES, Cited, cited_rows

CITED_RULE = """\
As printed, in percent, with the spread where there is one. The protocols differ, so a difference to these says nothing
by itself; the status of a result compares it with its own protocol's paper only. ResNet-50's rows are mean per class on
Aircraft, Pets, Caltech-101 and Flowers, and 11-point mAP on VOC2007; BiT's are top-1; of the others it is not known."""


def cited_table(datasets: Iterable[str]) -> str | None:
    """Return the published rows that have an accuracy on one of the datasets as Markdown; None if there is none.

    Args:
        datasets: names of the datasets of the report, in any order.
    """
    wanted = set(datasets)
    shown = [name for name in (*DATASET_TITLES, *FURTHER_TITLES) if name in wanted]
    rows = [cited for cited in cited_rows() if any(name in cited.row.accuracy for name in shown)]
    if not rows:
        return None
    titles = DATASET_TITLES | FURTHER_TITLES
    cells = [
        [
            escape_markdown(cited.row.network),
            escape_markdown(cited.how),
            *(_accuracy(cited, name) for name in shown),
            escape_markdown(cited.source),
        ]
        for cited in rows
    ]
    return markdown_table(["network", "how", *(titles[name] for name in shown), "source"], cells)


def _accuracy(cited: Cited, dataset: str) -> str:
    value, spread = cited.row.accuracy.get(dataset), cited.row.spread.get(dataset)
    if value is None:
        return ""
    return f"{value:g}" if spread is None else f"{value:g} ± {spread:g}"
