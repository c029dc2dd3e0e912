"""The environment of a computation: versions, git commit, hardware, memory."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
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


def command_words() -> list[str]:
    """Return the words that started this program: a script's, or `-m` and the name of a module, with the arguments."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    start = [sys.argv[0]] if spec is None else ["-m", spec.name.removesuffix(".__main__")]
    return [*start, *sys.argv[1:]]


def environment() -> dict[str, Any]:
    """Return versions, git commit and hardware of this process; None for what cannot be determined."""
    import torch  # imported here so that code that only reads and writes results need not wait for it

    return {
        "python": platform.python_version(),
        "versions": versions(("efficientnet-transfer", *PACKAGES)),
        "git_commit": git_commit(),
        "hardware": {
            "cpu": cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each package; None for one that is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's name, or an empty string if the system does not report it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def git_commit() -> str | None:
    """Return the commit of this source tree, with `-dirty` if files differ from it; None outside a checkout."""
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
    """Return the peak memory of this process in bytes: of tensors on the GPU if there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_figures(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write what was measured with the command and the environment, unless `path` is None.

    Of absolute paths in the command only the name is written: the rest is of one machine.
    """
    if path is not None:
        command = [Path(word).name if Path(word).is_absolute() else word for word in command_words()]
        write_json(path, {"command": command, **figures, **environment()})
