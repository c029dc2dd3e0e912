"""What JSON files hold, as dataclasses and typed dictionaries, with every type and range checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from transfer.errors import DamagedFile

T = TypeVar("T")


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low, high: its bounds.
    """

    low: float
    high: float

    def percent(self) -> str:
        """Return the interval of a share in [0, 1] as text."""
        return f"{100 * self.low:.1f}% to {100 * self.high:.1f}%"


def checked(content: Any, kind: type[T], path: Path) -> T:
    """Return the content of a JSON file as a dataclass or a typed dictionary, with every type and range checked.

    Args:
        content: what the file holds.
        kind: the dataclass or typed dictionary.
        path: the file, for the message.

    Raises:
        DamagedFile: an entry is missing or not what it should be.
    """
    from pydantic import TypeAdapter, ValidationError  # takes a while, and --help need not wait

    try:
        return TypeAdapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise DamagedFile(f"{path}: damaged: {where}: {first['msg'].lower()} ({first['input']!r:.60})") from None
