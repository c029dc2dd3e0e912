"""Locks that keep two processes from computing the same job."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from transfer.locks import NO_FLOCK, soft_lock


class JobIsTaken(Exception):
    """Another process computes this job."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int]:
    """Hold a lock file and yield its file descriptor.

    The kernel frees the lock when the last process that has the file open ends, however it ends. A child that inherits
    the descriptor keeps the lock, so that a run whose parent was killed is left alone until it has ended too.

    Args:
        path: the file, which is created with its folder.
        wait: whether to wait until the process that holds the lock has ended.

    Raises:
        JobIsTaken: another process holds the lock, and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise JobIsTaken(path.parent.name) from None
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            try:
                with soft_lock(path, error).acquire(timeout=-1 if wait else 0):
                    yield descriptor
                return
            except Timeout:
                raise JobIsTaken(path.parent.name) from None
        yield descriptor
    finally:
        os.close(descriptor)
