"""What batches need of the machine: shared memory for the workers, and what it means when a worker dies."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from datamodules.loading.threads import batches_in_threads, reads_in_threads
from transfer.errors import BadValue, explain_failure

_SHARED_MEMORY = Path("/dev/shm")
# Pipes, and the tensors of batches that are on their way.
_FILES_PER_WORKER = 12
_PREFETCHED = 2  # batches that torch lets each worker prepare in advance


def check_workers(dataset: object, num_workers: int, batch_bytes: int) -> None:
    """Check that the system lets this many workers of a dataset's loader run.

    Raises:
        BadValue: it does not; the text says what to set.
    """
    if num_workers > 0 and not reads_in_threads(dataset):
        check_open_files(num_workers)
        check_shared_memory(num_workers, batch_bytes)


def check_open_files(num_workers: int) -> None:
    """Compare the files that workers keep open with the limit: torch fails half-way where it is too low.

    Raises:
        BadValue: the limit is too low.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = len(list(Path("/dev/fd").iterdir())) + _FILES_PER_WORKER * num_workers
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise BadValue(
            f"{num_workers} workers need about {needed} open files, and the limit is {limit}: raise it (ulimit -n"
            " 4096), or set `num_workers`=0"
        )


def check_shared_memory(num_workers: int, batch_bytes: int) -> None:
    """Compare what workers put into shared memory with what is free there: when it is full, they wait for ever.

    Raises:
        BadValue: too little is free; the text says what to set.
    """
    if not _SHARED_MEMORY.is_dir():
        return
    needed, free = num_workers * _PREFETCHED * batch_bytes, shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise BadValue(
            f"{_SHARED_MEMORY}: {num_workers} workers with {_PREFETCHED} batches of {batch_bytes / 1e6:.1f} MB each"
            f" need {needed / 1e6:.0f} MB of shared memory, {free / 1e6:.0f} MB are free: give the container more"
            " (docker run --shm-size=2g), or set `num_workers`=0, or lower `batch_size`"
        )


class ExplainingLoader(DataLoader[Any]):
    """torch's own, which says in one line what it means that a worker died, or that files or memory ran out.

    The workers of a dataset that says `is_thread_safe` are threads, see `datamodules.loading.threads`.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # its own is private
        in_threads = self.num_workers > 0 and reads_in_threads(self.dataset)
        with failures_explained():
            yield from batches_in_threads(self) if in_threads else super().__iter__()


@contextmanager
def failures_explained() -> Iterator[None]:
    """Turn the failures of workers that are no bugs into a UserError of one line.

    Raises:
        UserError: a worker died, or files or memory ran out.
    """
    try:
        yield
    except (RuntimeError, OSError, MemoryError) as error:
        if (reason := explain_failure(error)) is None:
            raise
        raise BadValue(reason) from error
