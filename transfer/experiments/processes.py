"""Child processes that end with their parent's Ctrl-C or SIGTERM, and cleanly."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_POLL_SECONDS = 0.05
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Child:
    """A Python script in a process of its own, Popen's way."""

    def __init__(self, process: subprocess.Popen[bytes] | Any) -> None:
        self._process = process

    def poll(self) -> int | None:
        """The exit status, negative after a signal; None while it runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def terminate(self) -> None:
        """Sends SIGTERM, unless it has ended."""
        if self.poll() is None:
            self._process.terminate()


class Children:
    """Starts Python scripts; Ctrl-C and SIGTERM are passed on to them as SIGTERM, which lets them save.

    Args:
        fork: whether a script runs in a copy of this process, which need not import again what this one has: of short
            runs, importing takes most of the time. On Linux alone, and not for CUDA, which does not survive a fork.

    Attributes:
        stopped: the signal that came, or None.
    """

    def __init__(self, fork: bool) -> None:
        self.fork = fork and sys.platform == "linux"
        self.stopped: int | None = None
        self._running: list[Child] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Children:
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._running:
            child.terminate()
        while self._running:
            self.wait_any()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.stopped = self.stopped or number
        for child in self._running:
            child.terminate()

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None = None,
        keep_open: int | None = None,
    ) -> Child:
        """A new process, not waited for.

        Args:
            command: what follows `python`: `-m` and a module, or a script, and its arguments.
            log: file for its output, replaced; None: this process's own output.
            keep_open: a descriptor that it inherits.
        """
        # A signal must not meet a child that has its parent's handlers, or that its parent does not know yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            if self.fork:
                sys.stdout.flush()
                sys.stderr.flush()
                arguments = (command, dict(environment), log)
                process: Any = multiprocessing.get_context("fork").Process(target=_run_script, args=arguments)
                process.start()
            else:
                process = _spawn(command, environment, log, keep_open)
            self._running.append(Child(process))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        if self.stopped is not None:
            self._running[-1].terminate()
        return self._running[-1]

    def wait_any(self) -> tuple[Child, int]:
        """The next process to end, of those that are running, and its exit status."""
        while True:
            for child in self._running:
                if (status := child.poll()) is not None:
                    self._running.remove(child)
                    return child, status
            time.sleep(_POLL_SECONDS)


def _spawn(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None, keep_open: int | None
) -> subprocess.Popen[bytes]:
    with nullcontext() if log is None else open(log, "wb") as output:
        return subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            pass_fds=() if keep_open is None else (keep_open,),
            preexec_fn=_default_signals,
        )


def _default_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


def _run_script(command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> None:
    """What a forked process does: as if `python COMMAND` had been started."""
    _default_signals()
    if log is not None:
        with open(log, "wb") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environment)
    # A fork leaves out what was registered for the exit, as W&B's last writing; and what its parent did is not its own.
    atexit._clear()
    try:
        if command[0] == "-m":
            sys.argv = list(command[1:])
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(command)
            runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def was_stopped(status: int) -> bool:
    """Whether an exit status says that a process was stopped by Ctrl-C or SIGTERM, and did not fail."""
    return status in {sign for n in (signal.SIGINT, signal.SIGTERM) for sign in (-n, 128 + n)}


def single_process_environment(**extra: str) -> dict[str, str]:
    """This environment without what would tell a run that a scheduler or a launcher started several processes of it."""
    foreign = ("SLURM_", "SUBMITIT_", "TORCHELASTIC_")
    names = {"TRANSFER_RUN_DIR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
    names |= {"WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"}  # an agent's, of the whole cell
    own = {k: v for k, v in os.environ.items() if k not in names and not k.startswith(foreign)}
    return {**own, **extra}


def last_lines(path: Path, count: int = 20) -> str:
    """The end of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:]).strip()
