"""What a command asks of libraries: how threads wait for one another, what happens to freed memory, what is drawn."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from functools import cache

# glibc's malloc.h: how much free memory at the heap's end is given back, how many blocks lie outside the heap, how many
# heaps there are.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = -1


def share_cores() -> None:
    """Make waiting threads give up their core soon, in this process and those that it starts.

    Call it before torch is imported. PyTorch's builds for Linux use GNU OpenMP, whose threads spin 300,000 times before
    they sleep (libgomp's manual, GOMP_SPINCOUNT), many times in each step. If other processes, such as data workers,
    need the cores, the spinning threads keep them from the thread that all are waiting for. `python -m benchmarks
    cores` measures the gain. OMP_WAIT_POLICY and GOMP_SPINCOUNT are respected if they are set.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def draw_on_terminals_only() -> None:
    """Keep the progress bars of `datasets` out of files; call it before that is imported. Ours look for themselves."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def keep_freed_memory() -> bool:
    """Let this process, and those forked from it, use freed memory again, and return whether they will.

    By default, glibc gives blocks of several MiB, such as a layer's output, back to the kernel as soon as they are
    freed, and the next layer waits while the kernel fills new pages with zeros. `python -m benchmarks allocator`
    measures what it takes. Here the heap never shrinks; there is one for all threads, as glibc limits and unmaps those
    of other threads. Before a fork all free pages are given back: the child would hold on to them, and the parent's
    next writes would need as many again.

    Other C libraries, other allocators (jemalloc, tcmalloc or mimalloc in LD_PRELOAD) and whoever sets one of glibc's
    variables (MALLOC_ARENA_MAX=0 has no other effect) are left alone.
    """
    if platform.libc_ver()[0] != "glibc" or _is_set_by_user(os.environ):
        return False
    libc = ctypes.CDLL("libc.so.6")
    if _address(ctypes.CDLL(None).malloc) != _address(libc.malloc):
        return False
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_ARENA_MAX, 1)
    _trim_before_forks()
    return True


def _is_set_by_user(variables: Mapping[str, str]) -> bool:
    tunables = variables.get("GLIBC_TUNABLES", "")
    return "glibc.malloc." in tunables or any(name.startswith("MALLOC_") for name in variables)


def _address(function: ctypes._NamedFuncPointer) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


@cache
def _trim_before_forks() -> None:
    libc = ctypes.CDLL("libc.so.6")
    os.register_at_fork(before=lambda: libc.malloc_trim(0))
