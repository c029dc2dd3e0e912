"""The live line of what takes long, with the time that is left. Nothing of it goes into a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_FORMAT = "{desc} {percentage:3.0f}%|{bar:20}| {remaining} left{postfix}"
_ENDLESS_FORMAT = "{desc}, {elapsed}{postfix}"
_DELAY = 1.0  # seconds; what is done sooner needs no line
_INTERVAL = 0.1  # seconds between two drawings
_part: ContextVar[str] = ContextVar("part", default="")  # before every line


@contextmanager
def part_of(whole: str) -> Iterator[None]:
    """Put words before the lines of what is done in the block, which is a part of something: `fold 2 of 5`."""
    before = _part.set(f"{whole}, ")
    try:
        yield
    finally:
        _part.reset(before)


def track(items: Iterable[T], what: str, total: int | None = None, *, hidden: bool = False) -> tqdm[T]:
    """Return the items, and show how far they are on a terminal's last line while one goes through them.

    Args:
        items: what is gone through.
        what: what is done with them, in a word or two.
        total: how many there are; None takes their length.
        hidden: whether to show nothing, as in all but one of several processes.
    """
    disable = True if hidden else None  # None: unless stderr is a terminal
    return tqdm(
        items,
        desc=what,
        total=total,
        leave=False,
        mininterval=_INTERVAL,
        delay=_DELAY,
        disable=disable,
        bar_format=_part.get() + _FORMAT,
        dynamic_ncols=True,
    )


def live_line(what: str, total: int | None, done: int = 0) -> tqdm[Any]:
    """Return a line to update as work goes on; it is shown on a terminal or not, and vanishes when it is closed.

    Args:
        what: what is done, in a word or two.
        total: its steps; None: nobody knows.
        done: steps that were done before, which say nothing about the speed.
    """
    form = _ENDLESS_FORMAT if total is None else _FORMAT
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        leave=False,
        mininterval=_INTERVAL,
        bar_format=_part.get() + form,
        dynamic_ncols=True,
        smoothing=0.0,
    )


def print_above(text: str) -> None:
    """Print a line on stderr, above the live one if there is one."""
    tqdm.write(text, file=sys.stderr)
