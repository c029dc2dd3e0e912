"""What the processes of a run need before they work together: a launcher, and a folder that all of them see."""

from __future__ import annotations

import os
import time
from pathlib import Path
from uuid import uuid4

import torch

from transfer.errors import BadValue, MissingData

_SECONDS = 5.0  # until a file of another machine shows on a slow network disk


def refuse_missing_launcher(strategy: object, num_nodes: int) -> None:
    """Check that something starts the processes of all machines, or the first one would wait for them for half an hour.

    Args:
        strategy: Lightning's or Fabric's strategy, before it connects the processes.
        num_nodes: number of machines.

    Raises:
        BadValue: there are several machines and neither a launcher nor MASTER_ADDR.
    """
    environment = type(getattr(strategy, "cluster_environment", None)).__name__
    is_alone = environment == "LightningEnvironment"  # Lightning's two packages have a class of that name each
    if num_nodes > 1 and is_alone and "MASTER_ADDR" not in os.environ:
        raise BadValue(
            f"`trainer.num_nodes`={num_nodes}: no launcher has started this process, so the other machines would never"
            " join: start the command with srun or torchrun, or on each machine with MASTER_ADDR, MASTER_PORT and"
            " NODE_RANK set"
        )


def refuse_restarts_that_hang() -> None:
    """Check that the processes which torchrun starts again find each other, rather than wait for those that died.

    With a store that torchrun shares with its processes, they read the addresses of the processes before them
    (https://github.com/pytorch/pytorch/issues/135712).

    Raises:
        BadValue: torchrun may start processes again, and shares its store with them.
    """
    num_restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if num_restarts > 0 and num_processes > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise BadValue(
            f"torchrun --max_restarts {num_restarts}: processes started again would hang, as they get the addresses of"
            " those that died: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun, and give it --standalone on"
            " one machine or --rdzv_backend c10d on several"
        )


def refuse_separate_folders(folder: Path, argument: str) -> None:
    """Check that all processes see the same folder, by a file that the first one writes; after they are connected.

    Args:
        folder: the folder, which exists in each process.
        argument: the argument that names it, for the message.

    Raises:
        MissingData: in every process, if one of them does not see the file.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    is_first, names = torch.distributed.get_rank() == 0, [f"{uuid4().hex}.{os.getpid()}.tmp"]
    if is_first:
        (folder / names[0]).touch()
    torch.distributed.broadcast_object_list(names)
    found = [False] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, _appears(folder / names[0]))
    if is_first:
        (folder / names[0]).unlink()
    if blind := [rank for rank, sees in enumerate(found) if not sees]:
        raise MissingData(
            f"`{argument}`={folder}: process {', '.join(map(str, blind))} of {len(found)} does not see what the first"
            f" one writes there: set `{argument}` to a folder that all machines share, under the same path on each"
        )


def _appears(path: Path) -> bool:
    end = time.monotonic() + _SECONDS
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
