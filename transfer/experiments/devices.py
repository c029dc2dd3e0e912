"""Which GPUs processes of this machine use."""

from __future__ import annotations

import os
from collections.abc import Sequence

from transfer.errors import BadValue


def visible_gpus() -> list[str]:
    """Return the GPUs that processes started here may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def device_slots(workers: int | None, devices: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Return the environment variables of each process that may run at a time, which name its own GPUs.

    Args:
        workers: processes at a time; None takes as many as there are GPUs for, or one without GPUs.
        devices: GPUs of each.
        gpus: GPUs that may be used; empty for CPU alone.

    Raises:
        UserError: there are too few GPUs.
    """
    if not gpus:
        return [{}] * (workers or 1)
    most = len(gpus) // devices
    if (workers or 1) > most:
        raise BadValue(
            f"`workers`={workers or 1} with {devices} GPUs each: {len(gpus)} are visible (allowed: at most {most})"
        )
    shares = [gpus[k * devices : (k + 1) * devices] for k in range(workers or most)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def divide_cores(workers: int) -> None:
    """Give each of several workers its share of the CPU cores, unless the user has set OMP_NUM_THREADS."""
    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
