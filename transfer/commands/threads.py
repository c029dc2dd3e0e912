"""How PyTorch's CPU threads wait for one another."""

from __future__ import annotations

import os


def share_cores() -> None:
    """Make waiting threads give up their core soon, in this process and those that it starts.

    Call it before torch is imported. PyTorch's builds for Linux use GNU OpenMP, whose threads spin 300,000 times before
    they sleep (libgomp's manual, GOMP_SPINCOUNT), many times in each step. If other processes, such as data workers,
    need the cores, the spinning threads keep them from the thread that all are waiting for. `python -m benchmarks
    cores` measures the gain. OMP_WAIT_POLICY and GOMP_SPINCOUNT are respected if they are set.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
