"""Worker processes of the loaders: how many there are, and how they behave."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import signal
import threading
import warnings

import cv2

from transfer.errors import BadValue

_MAX_DEFAULT_WORKERS = 8


def default_num_workers() -> int:
    """Return the number of usable cores less one for the main process, between 1 and 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores - 1, 1), _MAX_DEFAULT_WORKERS)


def count_workers(asked: int | None, *, streams: bool = False) -> int:
    """Return the number of worker processes, `default_num_workers()` unless one is asked for.

    Args:
        asked: what the user wants.
        streams: whether the images are streamed; then it is lowered to one that divides the stream's lanes.

    Raises:
        BadValue: it is negative.
    """
    if asked is not None and asked < 0:
        raise BadValue(f"`num_workers`={asked} (allowed: at least 0)")
    number = default_num_workers() if asked is None else asked
    if streams:
        number = max(divisor for divisor in (0, 1, 2, 4, 8) if divisor <= number)
        if asked not in (None, number):
            warnings.warn(f"`num_workers`={asked}: a stream uses {number}", stacklevel=3)
    return number


def start_worker(worker_id: int) -> None:
    """Give a worker process one thread, and leave signals to the main process: a `worker_init_fn`.

    Workers already occupy the cores, OpenCV's own threads would fight over them. Ctrl-C and a scheduler's SIGTERM reach
    every process of a job, and the main process needs its workers until it has come to a good end. They end by its own
    SIGTERM, and soon after it is gone; one that never lets another Python thread run has to be killed.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not on macOS; and a worker that was not forked has threads already, which would take the signal.
    if hasattr(signal, "sigtimedwait") and _is_forked():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_main, args=(os.getppid(),), daemon=True).start()


def _is_forked() -> bool:
    # A context of the loader's own does not change the default start method.
    kinds = multiprocessing.context.SpawnProcess, multiprocessing.context.ForkServerProcess
    return multiprocessing.get_start_method() == "fork" and not isinstance(multiprocessing.current_process(), kinds)


def _end_with_main(main: int) -> None:
    while os.getppid() == main:
        told = signal.sigtimedwait({signal.SIGTERM}, 2)
        if told is not None and told.si_pid == main:
            break
    os._exit(0)  # also where the main thread waits for somebody to read what it has
