"""The page about runs: one file without any address outside of it."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.report.layout import render_frame, render_sections
from transfer.report.run_content import RunContent
from transfer.report.sections import RELOAD_SECONDS, SECTIONS
from transfer.report.verdict import main_metric, paired_difference, percent


def render_page(contents: Sequence[RunContent]) -> str:
    """Return the report of one run or of several, side by side, as HTML.

    Args:
        contents: the runs, at least one.
    """
    is_running = any(content.progress and content.progress.is_running for content in contents)
    facts = {
        "contents": contents,
        "reload_seconds": RELOAD_SECONDS if is_running else None,
        "sections": render_sections(SECTIONS, contents),
        "runs": [_summary(contents[0], content) for content in contents] if len(contents) > 1 else [],
    }
    return render_frame("page.html", facts)


def _summary(first: RunContent, content: RunContent) -> dict[str, object]:
    """Return the row of a run in the table that sets several side by side."""
    results = content.results
    cells = {}
    for split in ("val", "test"):
        if results.metrics.get(split):
            metric = main_metric(results, split)
            interval = results.intervals.get(split, {}).get(metric)
            cells[split] = percent(results.metrics[split][metric]), interval.percent() if interval else ""
    difference = None if content is first else paired_difference(first, content)
    return {"content": content, "cells": cells, "difference": difference}
