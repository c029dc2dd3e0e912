"""Processes of a gloo group on this machine, as a launcher starts them."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch

# What every rank would import for itself; a server that has computed nothing imports it once and is forked.
IMPORTED = (
    *("torch", "torch.distributed", "pytorch_lightning", "torchmetrics", "transformers", "datasets", "pytest"),
    *("datamodules.datamodule", "transfer.training.module", "transfer.training.trainer", "transfer.weights.build"),
)


def free_port() -> int:
    """Return a TCP port that nobody uses now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def run_ranks(function: Callable[..., None], *arguments: Any, world_size: int = 2) -> None:
    """Call `function(*arguments)` in processes of their own with the environment variables of a torchrun.

    Args:
        function: a function of a module, so that the processes can import it; it starts its process group itself.
        arguments: values that can be pickled.
        world_size: number of processes.
    """
    multiprocessing.set_forkserver_preload(list(IMPORTED))
    given = (function, arguments, free_port(), world_size)
    torch.multiprocessing.start_processes(_run, given, nprocs=world_size, start_method="forkserver")


def _run(rank: int, function: Callable[..., None], arguments: tuple[Any, ...], port: int, world_size: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    function(*arguments)
