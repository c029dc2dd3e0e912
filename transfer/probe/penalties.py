"""The L2 penalties of a linear probe, and the threads that fits to few features take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Kornblith, Shlens & Le 2019 (arXiv 1805.08974), as restated in SimCLR (arXiv 2002.05709) appendix B.8: 45 values from
# 1e-6 to 1e5, evenly spaced on a logarithmic scale. What they multiply is our reading, see `logistic`: half
# the squared norm of the weights beside the summed loss. From strong to weak, the order in which they are fitted.
PENALTIES: tuple[float, ...] = tuple(10 ** (5 - exponent / 4) for exponent in range(45))
# Up to so many features, threads gain little by sharing the short products of a fit, and lose much on busy cores.
_ONE_THREAD_LIMIT = 2**25


def towards(penalty: float) -> list[float]:
    """Return the penalties by which to reach one that is fitted alone: a weak one takes many steps from the start."""
    return [100 * penalty, 10 * penalty, penalty]


@contextmanager
def one_thread_if_small(size: int) -> Iterator[None]:
    """Use one thread for computing on so many features, if they are few."""
    threads = torch.get_num_threads()
    if size <= _ONE_THREAD_LIMIT:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
