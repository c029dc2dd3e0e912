"""Batches made by threads of this process: nothing has to start, and no batch passes through shared memory.

Decoding and resizing release Python's lock, so evaluation is read this way on a CPU. Training is not, whose
augmentation keeps the state of its random draws; nor beside a GPU, whose kernels would be launched late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader


def reads_in_threads(dataset: object) -> bool:
    """Return whether a loader's workers are threads: where its dataset says `is_thread_safe`, and there is no GPU."""
    return getattr(dataset, "is_thread_safe", False) and not torch.cuda.is_available()


def batches_in_threads(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of a loader in order, read by `num_workers` threads as far in advance as by its processes.

    This thread collates them: torch would start OpenMP threads of their own for the others.

    Args:
        loader: its dataset returns a batch by `__getitems__`.
    """
    dataset: Any = loader.dataset
    assert loader.batch_sampler is not None and loader.prefetch_factor is not None
    pool = ThreadPoolExecutor(loader.num_workers, "decoding")
    waiting: deque[Future[list[Any]]] = deque()
    try:
        for indices in loader.batch_sampler:
            waiting.append(pool.submit(dataset.__getitems__, indices))
            if len(waiting) > loader.prefetch_factor * loader.num_workers:
                yield loader.collate_fn(waiting.popleft().result())
        while waiting:
            yield loader.collate_fn(waiting.popleft().result())
    finally:
        pool.shutdown(cancel_futures=True)
