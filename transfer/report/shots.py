"""Photos on the page: where the picture is, and what was said of it."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from transfer.report.answers import Answers
from transfer.report.run_content import RunContent
from transfer.report.verdict import percent


@dataclass(frozen=True)
class Shot:
    """A photo on the page.

    Attributes:
        source: its picture as a data URI; None where the run kept none.
        name: the last two parts of its path.
        given: its own classes, in words.
        said: what the network says of it, in words.
        overlay: the picture with the class map on top; None without one.
        evidence: the class that the map is about.
    """

    source: str | None
    name: str
    given: str
    said: str
    overlay: str | None = None
    evidence: str = ""


def worst_shots(content: RunContent) -> list[Shot]:
    """Return the confidently wrong photos, the worst first."""
    answers = content.answers
    return [] if answers is None else _shots(content, answers, ((i, answers.mistake(i)) for i in answers.worst()))


def unsure_shots(content: RunContent) -> list[Shot]:
    """Return the photos whose answer hangs by least."""
    answers = content.answers
    return [] if answers is None else _shots(content, answers, ((i, answers.doubt(i)) for i in answers.unsure()))


def pair_shots(content: RunContent, images: Iterable[int]) -> list[Shot]:
    """Return photos of one class that were taken for another, without class maps."""
    answers = content.answers
    if answers is None:
        return []
    found = _shots(content, answers, ((i, answers.mistake(i)) for i in images))
    return [Shot(shot.source, shot.name, shot.given, shot.said) for shot in found]


def data_uri(jpeg: bytes | None) -> str | None:
    """Return a JPEG file as an address that holds it."""
    return None if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _shots(content: RunContent, answers: Answers, images: Iterable[tuple[int, int]]) -> list[Shot]:
    facts = content.facts
    kept = content.photos if facts.split == answers.split else None
    return [
        Shot(
            source=data_uri(kept.photos.get(index)) if kept else None,
            name=_short_name(answers, index),
            given=", ".join(answers.given_names(index)) or "no label",
            said=_said(answers, index, label),
            overlay=data_uri(kept.maps.get(index)) if kept else None,
            evidence=facts.map_classes.get(str(index), ""),
        )
        for index, label in images
    ]


def _said(answers: Answers, index: int, label: int) -> str:
    """Return the probability of one label; where an image has one, beside that of its own class or the runner-up."""
    found = answers.probabilities
    name = answers.class_names[label]
    if found is None:
        return name
    if answers.multilabel:
        return f"{name} {percent(found[index, label])}"
    row = found[index].copy()
    row[label] = -1
    own = int(answers.saved.labels[index])
    other = int(row.argmax()) if own == label else own
    return f"{name} {percent(found[index, label])}, {answers.class_names[other]} {percent(found[index, other])}"


def _short_name(answers: Answers, index: int) -> str:
    paths = answers.saved.paths
    return "/".join(PurePath(paths[index]).parts[-2:]) if paths else f"image {index}"
