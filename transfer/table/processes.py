"""Child processes that end with their parent's Ctrl-C or SIGTERM, and cleanly."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_POLL_SECONDS = 0.05


class Children:
    """Starts processes; while it is open, Ctrl-C and SIGTERM are passed on to them as SIGTERM, which lets them save.

    Attributes:
        stopped: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.stopped: int | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Children:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
            process.wait()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.stopped = self.stopped or number
        for process in self._processes:
            process.send_signal(signal.SIGTERM)

    def start(
        self,
        command: Sequence[str],
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        keep_open: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """A new process, not waited for.

        Args:
            log: file for its output, replaced; None: this process's own.
            keep_open: descriptors that it inherits.
        """
        output = open(log, "wb") if log is not None else None
        try:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                pass_fds=keep_open,
            )
        finally:
            if output is not None:
                output.close()
        self._processes.append(process)
        if self.stopped is not None:
            process.terminate()  # the signal came while it was being started
        return process

    def wait_any(self) -> subprocess.Popen[bytes]:
        """The next process to end, of those that are running."""
        while True:
            for process in self._processes:
                if process.poll() is not None:
                    self._processes.remove(process)
                    return process
            time.sleep(_POLL_SECONDS)

    def run(self, command: Sequence[str], **options: Any) -> int:
        """Starts a process and gives its exit status when it has ended."""
        process = self.start(command, **options)
        while self.wait_any() is not process:
            pass
        return process.returncode


def was_stopped(status: int) -> bool:
    """Whether an exit status says that a process was stopped by Ctrl-C or SIGTERM, and did not fail."""
    return status in {sign for n in (signal.SIGINT, signal.SIGTERM) for sign in (-n, 128 + n)}


def single_process_environment(**extra: str) -> dict[str, str]:
    """This environment without what would tell a run that a scheduler or a launcher started several processes of it."""
    foreign = ("SLURM_", "SUBMITIT_", "TORCHELASTIC_")
    names = {"TRANSFER_RUN_DIR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
    own = {k: v for k, v in os.environ.items() if k not in names and not k.startswith(foreign)}
    return {**own, **extra}


def last_lines(path: Path, count: int = 20) -> str:
    """The end of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:]).strip()
