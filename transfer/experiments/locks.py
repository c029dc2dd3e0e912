"""One process per cell or run: locks, and plans that must not change under them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transfer.errors import UserError


def check_same_plan(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any], names: Iterable[str]) -> None:
    """Compares what is asked for now with what was planned in a folder, in the fields of these names.

    Raises:
        UserError: something else would be computed; the text says what differs.
    """
    pairs = [(name, before.get(name), after.get(name)) for name in names]
    if changed := [f"{name}: {old!r} -> {new!r}" for name, old, new in pairs if old != new]:
        raise UserError(
            "\n  ".join([f"{folder} was planned otherwise; give a new folder, or the same options:", *changed])
        )


class CellIsTaken(Exception):
    """Another process is at this cell."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int]:
    """Holds a lock file; the kernel frees it when the last process that has it open ends, in whatever way.

    Gives its descriptor. A child that inherits it keeps the lock, so that a run whose parent was killed is left alone
    until it has ended too.

    Args:
        wait: until whoever holds it has ended.

    Raises:
        CellIsTaken: another process holds it, and nobody waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise CellIsTaken(path.parent.name) from None
        yield descriptor
    finally:
        os.close(descriptor)
