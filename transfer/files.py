"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from transfer.errors import BadValue


def expanded(path: str | Path) -> Path:
    """Return a path from the user with `~` replaced by the home folder; every path argument goes through here.

    Raises:
        BadValue: `~name` names no user, or the path holds a NUL character.
    """
    if "\0" in str(path):
        raise BadValue(f"{str(path)!r}: a path cannot hold a NUL character")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadValue(f"{path}: no user of that name has a home folder here") from None


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes the place of `path` once it is written; after an error `path` is as it was."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with written_whole(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")
