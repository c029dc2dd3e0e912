"""A service of the tiny bundle, in this process and as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.runs import ROOT, environment

pytest.importorskip("fastapi", reason="pip install 'efficientnet-transfer[serve]'")


class Served:
    """The command in a process of its own.

    Attributes:
        process: it; its stderr is a pipe.
        rule: what it printed of photos that are unknown.
        line: what it printed when it was ready.
        url: its address, as it printed it.
        address: the same for a socket.

    Args:
        words: after the command's name.
        program: what Python runs.
    """

    def __init__(self, *words: str | Path, program: Sequence[str] = ("-m", "transfer", "serve")) -> None:
        command = [sys.executable, *program, *map(str, words)]
        pipe = subprocess.PIPE
        settings = environment(PYTHONPATH=str(ROOT), no_proxy="*")
        self.process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=pipe, stderr=pipe, text=True)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.rule, self.line = self.process.stdout.readline(), self.process.stdout.readline()
        assert self.line, self.process.stderr.read()
        self.url = self.line.split()[-1]
        self.address = ("127.0.0.1", urlsplit(self.url).port or 0)

    def resident_bytes(self) -> int:
        """Memory that it holds now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    """Starts `efficientnet-transfer serve BUNDLE ...`; what still runs at the end of the test is stopped."""
    started: list[Served] = []

    def start(*words: str | Path) -> Served:
        started.append(Served(*words))
        return started[-1]

    yield start
    for found in started:
        with running(found.process):
            pass


@contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process that is still there when the block ends."""
    try:
        yield
    finally:
        process.kill()
        process.communicate(timeout=60)
