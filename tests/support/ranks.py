"""Processes of a gloo group on this machine, as a launcher starts them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch


def free_port() -> int:
    """Return a TCP port that nobody uses now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def run_ranks(function: Callable[..., None], *arguments: Any, world_size: int = 2) -> None:
    """Call `function(*arguments)` in spawned processes with the environment variables of a torchrun.

    Args:
        function: a function of a module, so that the processes can import it; it starts its process group itself.
        arguments: values that can be pickled.
        world_size: number of processes.
    """
    torch.multiprocessing.spawn(_run, (function, arguments, free_port(), world_size), nprocs=world_size)


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
