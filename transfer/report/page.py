"""The page: one file without any address outside of it, whose names are escaped and whose only script is its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from transfer.errors import printable
from transfer.files import write_text
from transfer.report.metric_sections import metric_name
from transfer.report.run_content import RunContent
from transfer.report.sections import RELOAD_SECONDS, SECTIONS
from transfer.report.verdict import main_metric, paired_difference, percent, points


def write_page(contents: Sequence[RunContent], path: Path) -> None:
    """Write the report of one run or of several, side by side, whole or not at all.

    Raises:
        OSError: the disk is full or refuses the file.
    """
    write_text(path, render_page(contents))


def render_page(contents: Sequence[RunContent]) -> str:
    """Return the report of one run or of several, side by side, as HTML.

    Args:
        contents: the runs, at least one.
    """
    environment = _environment()
    sections = []
    for section in SECTIONS:
        found = [section.context(content) for content in contents]
        if any(context is not None for context in found):
            template = environment.get_template(f"{section.id}.html")
            parts = [None if context is None else Markup(template.render(context)) for context in found]
            sections.append((section, list(zip(contents, parts, strict=True))))
    script = environment.loader.get_source(environment, "page.js")[0]  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        contents=contents,
        reload_seconds=RELOAD_SECONDS if any(c.progress and c.progress.is_running for c in contents) else None,
        sections=sections,
        runs=[_summary(contents[0], content) for content in contents] if len(contents) > 1 else [],
        script=Markup(script),
        script_digest=digest,
    )


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


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("transfer.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "metric_name": metric_name}
    return environment


def _shown(value: object) -> object:
    """Return a value as it is put into the page: control characters of names become escapes."""
    return printable(value) if type(value) is str else value
