"""What becomes of an input: each case is read as a command reads it, and its outcome is one of six."""

from __future__ import annotations

import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from transfer.commands.console import exit_status

DEADLINE = 60  # seconds; far above what any case takes on a busy machine
MEMORY = 4 * 2**30  # bytes that a case may reserve; far above what any takes
_STARTS_A_PROGRAM = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile", "pty.spawn"}


class Outcome(StrEnum):
    REFUSED = "refused in one clear message"
    RIGHT = "answered as for the intact input"
    WRONG = "accepted although wrong"
    UNCLEAR = "refused without naming the input"
    TRACEBACK = "traceback"
    HANG = "hang"
    EXECUTED = "code executed"


class Undetectable:
    """In place of an expected answer: no reader can tell that the input was changed, so any answer will do."""


@dataclass(frozen=True)
class Case:
    """An input and what may become of it.

    Args:
        name: what was done to which input.
        read: reads the input and returns the answer.
        names: what a refusal has to name, usually the file.
        right: the only answer that is right; None if the input has to be refused.
    """

    name: str
    read: Callable[[], Any]
    names: str
    right: Any = None


class Hang(BaseException):
    """A case took longer than the deadline."""


_programs: list[str] = []


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _STARTS_A_PROGRAM and arguments[0] != sys.executable:  # Matlab's files are read in a child of our own
        _programs.append(event)


sys.addaudithook(_record)


@contextmanager
def _limits() -> Iterator[None]:
    """Raise Hang after the deadline, and MemoryError where a case wants more memory than it may."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise Hang

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def judge(case: Case, canary: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Outcome, str]:
    """Return the outcome of a case and, for a bad one, what was seen.

    Args:
        case: the case.
        canary: a file that the code hidden in inputs would write.
        capsys: pytest's fixture.
    """
    answers: list[Any] = []
    capsys.readouterr()
    _programs.clear()
    status: int | None = None
    seen = ""
    try:
        with _limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status = exit_status(lambda: answers.append(case.read()))
    except Hang:
        return Outcome.HANG, ""
    except (Exception, SystemExit) as error:
        seen = "".join(traceback.format_exception(error)[-4:])
    if _programs or canary.exists():
        canary.unlink(missing_ok=True)
        return Outcome.EXECUTED, ", ".join(_programs)
    if status is None:
        return Outcome.TRACEBACK, seen
    message = capsys.readouterr().err.rpartition("error: ")[2].strip()
    if status != 0:
        clear = status == 2 and case.names in message and "Traceback" not in message
        return (Outcome.REFUSED, "") if clear else (Outcome.UNCLEAR, message)
    if case.right is Undetectable or (case.right is not None and answers[0] == case.right):
        return Outcome.RIGHT, ""
    return Outcome.WRONG, f"{answers[0]!r:.300} in place of {case.right!r:.300}"
