"""What a run leaves behind: results.json and the closing table."""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import subprocess
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from transfer.paper import paper_results

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


def quiet_lightning() -> None:
    """Keeps Lightning from announcing hardware, tips and what the run's own lines already say; warnings stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # The number of workers follows the cores; a run's folder holds config.yaml before the first checkpoint; a machine
    # with SLURM's commands is no job of it; the last is a deprecation that Lightning has to follow.
    for message in (
        ".*does not have many workers",
        "Checkpoint directory .* exists",
        "The `srun` command is available",
        ".*isinstance.treespec",
    ):
        warnings.filterwarnings("ignore", message)


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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def write_figures(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Writes what was measured, with the command and where it ran, if there is a path."""
    if path is not None:
        write_json(path, {"command": sys.argv, **figures, **environment()})


def print_results(
    dataset: str, backbone: str, metrics: Mapping[str, Mapping[str, float]], quoted_metric: str = "top1"
) -> None:
    """The closing table: each metric on val and test, with the paper's accuracies on that dataset below.

    Args:
        metrics: split -> metric -> value in [0, 1] (loss: nats).
        quoted_metric: which of them the literature quotes for the dataset; marked in the table.
    """
    published = paper_results(dataset)
    splits = [split for split in ("train", "val", "test") if metrics.get(split)]
    table = Table(title=f"{backbone} on {dataset}", title_justify="left")
    table.add_column("metric")
    for split in splits:
        table.add_column(split, justify="right")
    for name in metrics[splits[-1]] if splits else ():
        values = [metrics[split].get(name) for split in splits]
        label = f"{name} (quoted in the literature)" if published and name == quoted_metric else name
        table.add_row(label, *("" if v is None else _format(name, v) for v in values))
    if published:
        table.add_section()
        for result in published:
            accuracy = f"{result.accuracy:.1f}%"
            table.add_row(f"paper, {result.backbone} (Table 5)", *[""] * (len(splits) - 1), accuracy)
    Console().print(table)


def _format(name: str, value: float) -> str:
    return f"{value:.4f}" if name in ("loss", "ece") else f"{100 * value:.2f}%"
