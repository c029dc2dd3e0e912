"""Child processes that end, cleanly, with their parent's Ctrl-C or SIGTERM."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import site
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_POLL_SECONDS = 0.05
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A Python command in a process of its own, with the interface of `Popen`."""

    def __init__(self, process: subprocess.Popen[bytes] | Any) -> None:
        self._process = process

    def poll(self) -> int | None:
        """Return the exit status, negative after a signal, or None while the process runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def terminate(self) -> None:
        """Send SIGTERM, unless the process has ended."""
        if self.poll() is None:
            self._process.terminate()


class Children:
    """Starts Python commands and passes Ctrl-C and SIGTERM on to them as SIGTERM, so that they can save their state.

    Args:
        fork: whether a command runs in a copy of this process, which has already imported what the command needs:
            importing takes most of the time of a short run. Only on Linux, and not for CUDA, which does not survive a
            fork.

    Attributes:
        stopped: the signal that was received, or None.
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
        """Start `python COMMAND` and return its process.

        Args:
            command: words after `python`: `-m` and a module, or a script, and its arguments.
            environment: all variables of the process.
            log: file for its output, replaced if it exists; None shares this process's own output.
            keep_open: file descriptor that the process inherits.
        """
        # A signal must not meet a child that has its parent's handlers, or that its parent does not know yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            if self.fork:
                sys.stdout.flush()
                sys.stderr.flush()
                arguments = (command, dict(environment), log)
                process: Any = multiprocessing.get_context("fork").Process(target=_run_command, args=arguments)
                process.start()
            else:
                process = _spawn(command, environment, log, keep_open)
            self._running.append(Child(process))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        if self.stopped is not None:
            self._running[-1].terminate()
        return self._running[-1]

    def wait_any(self, watch: Callable[[], None] | None = None) -> tuple[Child, int]:
        """Wait until one of the running processes ends; return it and its exit status.

        Args:
            watch: called again and again meanwhile.
        """
        while True:
            for child in self._running:
                if (status := child.poll()) is not None:
                    self._running.remove(child)
                    return child, status
            if watch is not None:
                watch()
            time.sleep(_POLL_SECONDS)


def _spawn(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None, keep_open: int | None
) -> subprocess.Popen[bytes]:
    with nullcontext() if log is None else open(log, "wb") as output:
        return subprocess.Popen(
            [sys.executable, *command],
            env={**environment, **import_path(environment)},
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


def _run_command(command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> None:
    """Do in a forked process what `python COMMAND` does."""
    _default_signals()
    if log is not None:
        with open(log, "wb") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environment)
    # A forked process skips its exit handlers, W&B's last writing among them; and its parent's are not its own.
    atexit._clear()
    try:
        if command[0] == "-m":
            sys.argv = list(command[1:])
            sys.modules.pop(f"{command[1]}.__main__", None)  # of this process's own command
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(command)
            runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


@dataclass(frozen=True)
class Task:
    """A command of a pool.

    Attributes:
        name: of the task.
        command: words after `python`.
        log: file for its output; None shares this process's own output.
        keep_open: file descriptor that it inherits.
        is_hopeless: asked again and again, until it says so, whether to stop the command; None lets it end.
    """

    name: str
    command: list[str]
    log: Path | None = None
    keep_open: int | None = None
    is_hopeless: Callable[[], bool] | None = None


def run_pool(
    tasks: Iterator[Task], slots: Sequence[Mapping[str, str]], children: Children
) -> Iterator[tuple[str, int]]:
    """Run commands, one in each slot at a time, and yield the name and exit status of each as it ends.

    After a signal no further command is started.

    Args:
        tasks: the commands; the next one is asked for when a slot is free.
        slots: environment variables of the command that runs in a slot, in addition to this process's; what would tell
            it that it is one of several processes is left out.
        children: starts the commands.
    """
    free = list(slots)
    running: dict[Child, tuple[Task, Mapping[str, str]]] = {}
    given_up: set[Child] = set()

    def stop_hopeless() -> None:
        for child, (task, _) in running.items():
            if task.is_hopeless is not None and child not in given_up and task.is_hopeless():
                given_up.add(child)
                child.terminate()

    while True:
        while free and children.stopped is None and (task := next(tasks, None)):
            slot = free.pop(0)
            child = children.start(task.command, single_process_environment(**slot), task.log, task.keep_open)
            running[child] = task, slot
        if not running:
            return
        child, status = children.wait_any(stop_hopeless)
        task, slot = running.pop(child)
        free.append(slot)
        yield task.name, status


def was_stopped(status: int) -> bool:
    """Return whether an exit status says that a process was stopped by Ctrl-C or SIGTERM rather than failed."""
    return status in {sign for n in (signal.SIGINT, signal.SIGTERM) for sign in (-n, 128 + n)}


def single_process_environment(**extra: str) -> dict[str, str]:
    """Return this environment without what would tell a run that a scheduler or launcher started several processes.

    Args:
        extra: variables to add.
    """
    foreign = ("SLURM_", "SUBMITIT_", "TORCHELASTIC_")
    names = {"TRANSFER_RUN_DIR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
    names |= {"WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"}  # an agent's, of the whole job
    own = {k: v for k, v in os.environ.items() if k not in names and not k.startswith(foreign)}
    return {**own, **extra}


def import_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the PYTHONPATH with which `python -m transfer` finds this package from any folder.

    Empty where the package is installed, so that Python finds it anyway.
    """
    installed = {Path(path).resolve() for path in (*site.getsitepackages(), site.getusersitepackages())}
    if _ROOT in installed:
        return {}
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != _ROOT]
    return {"PYTHONPATH": os.pathsep.join([str(_ROOT), *paths])}


def last_lines(path: Path, count: int = 20) -> str:
    """Return the last lines of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]).strip()
