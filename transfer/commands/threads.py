"""How the threads that PyTorch computes with on a CPU wait for one another."""

from __future__ import annotations

import os


def share_cores() -> None:
    """Lets threads that wait for others give their core away soon, for this process and those it starts.

    To be called before torch is imported. GNU OpenMP's threads, which PyTorch's builds for Linux have, spin 300,000
    times before they sleep (libgomp's manual, GOMP_SPINCOUNT), many times in each step. Where other processes want the
    cores, data workers among them, the thread that is waited for does not get one meanwhile. What it gives:
    `python -m benchmarks cores`. Whoever has set OMP_WAIT_POLICY or GOMP_SPINCOUNT is left alone.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
