"""One process at a time: a lock file, also where the file system has no flock."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

# What flock says on network file systems that cannot lock.
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextmanager
def held(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file.

    The kernel frees it when the process ends, however it ends. On a file system without flock the existence of
    `<path>.soft` is the lock, which a killed process leaves behind; on its own machine the next one notices that.

    Args:
        path: the file, in a folder that exists.
        timeout: seconds to wait for another process; below 0: as long as it takes.

    Raises:
        filelock.Timeout: another process holds it.
    """
    lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        lock = soft_lock(path, error)
        lock.acquire(timeout)
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Return whether a process holds a lock file, or may hold it, where only a file's existence is the lock."""
    if path.with_name(soft_name(path.name)).exists():
        return True
    if not path.exists():
        return False
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError as error:
        if error.errno in (*NO_FLOCK, errno.EACCES, errno.EROFS):
            return False
        raise
    lock.release()
    return False


def soft_name(name: str) -> str:
    """Return the name of the file that stands for a lock where there is no flock."""
    return f"{name}.soft"


def soft_lock(path: Path, error: OSError) -> SoftFileLock:
    """Return the lock for a file system that refused flock, with a warning."""
    soft = path.with_name(soft_name(path.name))
    warnings.warn(
        f"{path.parent}: its file system cannot lock files ({os.strerror(error.errno or 0).lower()}): {soft.name} is"
        " the lock instead. Remove it if a process of another machine was killed while it held it",
        stacklevel=4,
    )
    return SoftFileLock(soft)
