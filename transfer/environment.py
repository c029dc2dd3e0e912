"""Where something was computed: versions, git commit, hardware, memory."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transfer.files import write_json

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "datasets",
    "albumentations",
    "pillow",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Versions, git commit and hardware of this process; what cannot be found is null."""
    import torch  # here, so that what only reads and writes results need not wait for it

    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("efficientnet-transfer", *PACKAGES)},
        "git_commit": git_commit(),
        "hardware": {
            "cpu": cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor; empty where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def git_commit() -> str | None:
    """Commit of this source tree, with `-dirty` if files differ from it; None outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_bytes() -> int:
    """Largest memory of this process so far: of tensors on the GPU where there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_figures(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Writes what was measured, with the command and where it ran, if there is a path."""
    if path is not None:
        write_json(path, {"command": sys.argv, **figures, **environment()})
