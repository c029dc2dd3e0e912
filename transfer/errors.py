"""What a user did wrong, in words, and how a command ends: the only module that `transfer` and `datamodules` share."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class UserError(ValueError):
    """A mistake in what the user gave: its text says where, what was given, what is allowed and what to do.

    Scripts print the text without a traceback; every other exception is a programmer's and keeps its traceback.
    """


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The hint `; did you mean 'x'?` for the allowed name closest to `given`, or an empty string."""
    matches = get_close_matches(given.lower(), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that no table row has: the nearest name, then all the names there are."""
    names = list(allowed)
    return UserError(f"unknown {kind} {given!r}{nearest(given, names)} (allowed: {', '.join(names)})")


def printable(text: str) -> str:
    """Text that may come from a file, with what would steer a terminal shown as its escape."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class Interrupted(Exception):
    """The user or a scheduler stopped the work; the command `go_on` takes it up where it ended."""

    def __init__(self, signal_number: int, go_on: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; go on with: {go_on}")
        self.signal_number = signal_number


class RunInterrupted(Interrupted):
    """A run was stopped; its state is in `checkpoint`."""

    def __init__(self, signal_number: int, checkpoint: Path) -> None:
        super().__init__(signal_number, f"efficientnet-transfer finetune --resume {checkpoint.parent}")
