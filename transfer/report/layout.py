"""What all pages share: the frame with its style and its only script, and sections, whose names are escaped."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from transfer.errors import printable
from transfer.report.metric_sections import metric_name
from transfer.report.verdict import percent, points

T = TypeVar("T")

Context = Mapping[str, Any] | None


@dataclass(frozen=True)
class Section(Generic[T]):
    """A section of a page.

    Attributes:
        id: its anchor, and the name of its template.
        title: its heading.
        context: returns what the template shows of a content; None where that has nothing to show.
    """

    id: str
    title: str
    context: Callable[[T], Context]


Rendered = list[tuple[Section[T], list[tuple[T, Markup | None]]]]


def render_sections(sections: Sequence[Section[T]], contents: Sequence[T]) -> Rendered[T]:
    """Return the sections that have something to show, each with its part about every content, or None."""
    found: Rendered[T] = []
    for section in sections:
        contexts = [section.context(content) for content in contents]
        if any(context is not None for context in contexts):
            template = _environment().get_template(f"{section.id}.html")
            parts = [None if context is None else Markup(template.render(context)) for context in contexts]
            found.append((section, list(zip(contents, parts, strict=True))))
    return found


def render_frame(template: str, facts: Mapping[str, Any]) -> str:
    """Return a whole page as HTML.

    Args:
        template: `page.html`, or one that extends it.
        facts: what it shows, the rendered `sections` among it.
    """
    environment = _environment()
    script = environment.loader.get_source(environment, "page.js")[0]  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render({**facts, "script": Markup(script), "script_digest": digest})


def render_single(heading: str, facts: str, sections: Sequence[Section[T]], content: T, footer: Sequence[str]) -> str:
    """Return the page about one content as HTML.

    Args:
        heading: its title.
        facts: what it is about, in a line.
        sections: its sections.
        content: what they are about.
        footer: where it comes from, a line each.
    """
    rendered = render_sections(sections, [content])
    return render_frame(
        "single.html", {"heading": heading, "facts": facts, "sections": rendered, "footer": footer, "runs": []}
    )


def find_link(target: Path, place: Path) -> str | None:
    """Return the address of a file for a page in the folder `place`; None if there is no such file."""
    return quote(os.fsencode(os.path.relpath(target, place))) if target.is_file() else None


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
