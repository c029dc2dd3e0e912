"""JSON files of experiments, read with every type checked: what is read again was written by an earlier call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import StringConstraints, TypeAdapter, ValidationError

from transfer.errors import DamagedFile

T = TypeVar("T")
# A name that files are called by: it stays in its folder.
FileName = Annotated[str, StringConstraints(pattern=r"^[^/\x00-\x1f.][^/\x00-\x1f]*$")]


def checked(content: Any, kind: type[T], path: Path) -> T:
    """Return the content of a JSON file as a dataclass or a typed dictionary, with every type and range checked.

    Args:
        content: what the file holds.
        kind: the dataclass or typed dictionary.
        path: the file, for the message.

    Raises:
        DamagedFile: an entry is missing or not what it should be.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise DamagedFile(f"{path}: damaged: {where}: {first['msg'].lower()} ({first['input']!r:.60})") from None
