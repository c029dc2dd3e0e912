"""Wall and processor time of a whole linear probe of photos: python -m benchmarks probe_photos --data_root DIR

Each round is a new process with empty caches, from the start of Python to its end. The seconds of each part are wall,
user and kernel seconds of the main process; data workers count in the whole.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from transfer.commands.process import keep_freed_memory, share_cores
from transfer.errors import UserError
from transfer.files import expanded

# What a part is called, and the function that is timed for it, where its caller looks it up.
PARTS = {
    "read": ("datamodules", "load_dataset"),
    "network": ("transfer.commands.probe", "build_network"),
    "fingerprints": ("transfer.commands.probe", "begin"),
    "engine": ("transfer.commands.probe_features", "start_engine"),
    "features": ("transfer.probe.features", "cached_features"),
    "fits": ("transfer.commands.probe", "fit"),
    "report": ("transfer.commands.probe_report", "collect_results"),
}
Seconds = dict[str, float]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_probe_photos`."""
    parser.add_argument("--data_root", type=expanded, required=True, metavar="DIR", help="folder of class folders")
    parser.add_argument("--backbone", default="lite0", help="default: lite0")
    parser.add_argument("--image_size", type=int, default=224, help="pixels; default: 224")
    parser.add_argument("--engine", default="auto", help="what computes the features; default: auto")
    parser.add_argument("--rounds", type=int, default=3, help="new processes; default: 3")


def benchmark_probe_photos(
    data_root: Path, backbone: str = "lite0", image_size: int = 224, engine: str = "auto", rounds: int = 3
) -> dict[str, Any]:
    """Return the medians over the rounds of the seconds of the whole probe and of its parts.

    Args:
        data_root: the photos.
        backbone: a backbone with weights.
        image_size: side of the network's input.
        engine: what computes the features.
        rounds: how often all is measured.

    Raises:
        UserError: a probe failed.
    """
    options = ["--data_root", str(data_root), "--backbone", backbone, "--image_size", str(image_size)]
    measured = [measure_round([*options, "--engine", engine]) for _ in range(rounds)]
    results = measured[-1][2]
    return {
        "images": {name: split["size"] for name, split in results["splits"].items()},
        "backbone": backbone,
        "image_size": image_size,
        "engine": results["engine"],
        "metrics": results["metrics"],
        "rounds": rounds,
        "whole": medians([whole for whole, _, _ in measured]),
        "slowest_wall_seconds": max(whole["wall"] for whole, _, _ in measured),
        "parts": {part: medians([parts[part] for _, parts, _ in measured]) for part in measured[0][1]},
    }


def medians(rounds: Sequence[Seconds]) -> Seconds:
    """Return the median of each kind of seconds."""
    return {kind: round(statistics.median(each[kind] for each in rounds), 2) for kind in rounds[0]}


def measure_round(options: Sequence[str]) -> tuple[Seconds, dict[str, Seconds], dict[str, Any]]:
    """Return the seconds of a probe in a new process, those of its parts, and its results."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [*options, "--data.cache_dir", f"{folder}/cache", "--out_dir", f"{folder}/run"]
        started, before = time.perf_counter(), used(resource.RUSAGE_CHILDREN)
        status = run_anew(Path(folder, "parts.json"), argv)
        whole = {"wall": time.perf_counter() - started, **difference(before, used(resource.RUSAGE_CHILDREN))}
        if status != 0:
            raise UserError(f"the probe ended with status {status}")
        parts = json.loads(Path(folder, "parts.json").read_text(encoding="utf-8"))
        return whole, parts, json.loads(Path(folder, "run", "results.json").read_text(encoding="utf-8"))


def run_anew(path: Path, argv: Sequence[str]) -> int:
    """Call `run_timed` in a new process."""
    command = [sys.executable, "-m", "benchmarks.probe_photos", str(path), *argv]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode


def used(who: int) -> Seconds:
    """Return the processor seconds of this process, or of its children that have ended."""
    usage = resource.getrusage(who)
    return {"user": usage.ru_utime, "kernel": usage.ru_stime}


def difference(before: Seconds, after: Seconds) -> Seconds:
    """Return what was used in between."""
    return {kind: after[kind] - before[kind] for kind in after}


def timed(function: Callable[..., Any], spent: Seconds) -> Callable[..., Any]:
    """Return the function, whose calls add their seconds to `spent`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        started, before = time.perf_counter(), used(resource.RUSAGE_SELF)
        try:
            return function(*args, **kwargs)
        finally:
            seconds = {"wall": time.perf_counter() - started, **difference(before, used(resource.RUSAGE_SELF))}
            spent.update({kind: spent.get(kind, 0.0) + more for kind, more in seconds.items()})

    return call


def run_timed(path: Path, argv: Sequence[str]) -> int:
    """Run a probe, write the seconds of its parts to a file, and return its exit status."""
    share_cores()  # before torch is imported
    keep_freed_memory()
    started, before = time.perf_counter(), used(resource.RUSAGE_SELF)
    modules = {name: import_module(module) for name, (module, _) in PARTS.items()}
    imports = {"wall": time.perf_counter() - started, **difference(before, used(resource.RUSAGE_SELF))}
    parts: dict[str, Seconds] = {"imports": imports, **{name: {} for name in PARTS}}
    with ExitStack() as stack:
        for name, (_, function) in PARTS.items():
            call = timed(getattr(modules[name], function), parts[name])
            stack.enter_context(patch.object(modules[name], function, call))
        status: int = import_module("transfer.commands.probe").main(argv)
    path.write_text(json.dumps(parts), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(run_timed(Path(sys.argv[1]), sys.argv[2:]))
