"""What can go wrong and is nobody's bug, in words: the only exceptions of this project's own.

ValueError
  x UserError            a mistake in what the user gave; raised as one of its kinds:
    + BadValue           an argument's value, or values that do not go together
    + MissingData        a file, a folder or a server that is not there
    + DamagedFile        a file that cannot be read, or is not what it should be
    + Diverged           the training loss is no longer finite
BaseException
  x Interrupted          the user or a scheduler stopped the work
    + RunInterrupted     the same for a run, whose checkpoint is kept

The text of a UserError names arguments in backticks: `batch_size`=0 (allowed: at least 1). A command shows them as the
flags that the user typed; see `transfer.commands.console`. Every other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class UserError(ValueError):
    """A mistake in what the user gave. Its text says where, what was given, what is allowed and what to do."""


class BadValue(UserError):
    """An argument's value is not allowed, or two arguments do not go together."""


class MissingData(UserError):
    """A file, a folder or a server that is needed is not there or cannot be reached."""


class DamagedFile(UserError):
    """A file cannot be read, or does not hold what it should."""


class Diverged(UserError):
    """The training loss is no longer a finite number; a command then ends with a status of its own."""

    STATUS = 3


def check_count(argument: str, value: int, least: int = 1) -> None:
    """Check that a number is large enough, and small enough for the 32-bit integers that counts are in places.

    Raises:
        BadValue: it is not.
    """
    if not least <= value < 2**31:
        allowed = f"at least {least}" if value < least else f"below {2**31}"
        raise BadValue(f"`{argument}`={value} (allowed: {allowed})")


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return the hint `; did you mean 'x'?` for the allowed name closest to `given`, or an empty string."""
    matches = get_close_matches(given.lower(), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def not_a_run(folder: Path, file: str) -> MissingData:
    """Return the error for a folder that lacks a file that every run has."""
    if folder.exists():
        return MissingData(f"{folder} is not a run: it has no {file}")
    return MissingData(f"{folder} is not a run: there is no such folder (`efficientnet-transfer runs` lists runs)")


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> BadValue:
    """Return the error for a name that is in no table; it says the nearest name, then all that are allowed."""
    names = list(allowed)
    return BadValue(f"unknown {kind} {given!r}{nearest(given, names)} (allowed: {', '.join(names)})")


def some_of(names: Iterable[str], most: int = 5) -> str:
    """Return the first names, and how many more there are: `cat, dog, ... and 3 more`."""
    found = list(names)
    return ", ".join(found[:most]) + (f", ... and {len(found) - most} more" if len(found) > most else "")


def printable(text: str) -> str:
    """Return text that may come from a file with each control character replaced by its escape."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


# How the system, torch and its loaders say it; torch's own error for a GPU is a RuntimeError.
_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "cannot allocate memory",
    "can't allocate memory",
    "unable to allocate shared memory",
    "failed to map segment",
    "can't start new thread",
    "could not create a primitive",
)


def is_short_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is too little memory."""
    return isinstance(error, MemoryError) or any(said in str(error).lower() for said in _NO_MEMORY)


def explain_failure(error: BaseException) -> str | None:
    """Return what an error of the system's or of torch's loaders means and what to do, in one line; None for a bug."""
    text = str(error)
    if getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in text:
        return "too many open files: raise the limit (ulimit -n 4096), or set `num_workers`=0"
    if "DataLoader worker (pid" in text:
        return (
            "a worker process of the loader was killed, most likely because memory ran out: lower `num_workers`"
            " (0: none) or `batch_size`"
        )
    if is_short_of_memory(error):
        return "too little memory: lower `batch_size`, `num_workers` or `image_size`"
    return None


class Interrupted(BaseException):
    """The user or a scheduler stopped the work; the command `go_on`, if any, continues it from where it stopped.

    Like KeyboardInterrupt it is no Exception: wherever the signal comes, no `except Exception` takes it for an error.
    """

    def __init__(self, signal_number: int, go_on: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}{go_on and f'; go on with: {go_on}'}")
        self.signal_number = signal_number


class RunInterrupted(Interrupted):
    """A run was stopped; `checkpoint` holds its state."""

    def __init__(self, signal_number: int, checkpoint: Path) -> None:
        super().__init__(signal_number, f"efficientnet-transfer finetune --resume {checkpoint.parent}")
