"""Whole commands on photos against an earlier version's, and the accuracy of each engine: python -m benchmarks photos

`probe` extracts the features of all photos and fits to them, `evaluate` measures the run on the training photos, and
`predict` classifies all photos. Each is a process of its own, from start to end, with empty caches, in this version and
in the one that `--before` names (git worktree add --detach DIR e0aceb7). Then `evaluate` measures every installed
engine on the validation photos.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.ratios import ratio
from transfer.errors import UserError
from transfer.files import expanded

PER_CLASS = 40  # photos that the probe is fitted to whose accuracy is measured
VERBS = ("probe", "evaluate", "predict")
Seconds = tuple[float, float]  # wall, processor


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_photos`."""
    folder = "folder with train/CLASS/ and validation/CLASS/; default: ../shared/data/clothing"
    parser.add_argument("--photos", type=expanded, default=Path("../shared/data/clothing"), metavar="DIR", help=folder)
    before = "checkout of an earlier version to compare with; default: none, only the accuracies"
    parser.add_argument("--before", type=expanded, metavar="DIR", help=before)
    parser.add_argument("--backbone", default="lite0", help="default: lite0")
    parser.add_argument("--image_size", type=int, default=224, metavar="PX", help="default: 224")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="default: 1")


def benchmark_photos(photos: Path, before: Path | None, backbone: str, image_size: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of each command on all photos, before and now, and each engine's accuracy.

    Args:
        photos: folder with `train` and `validation`, in folders of classes.
        before: checkout of an earlier version; None measures no seconds.
        backbone: name of the backbone.
        image_size: side of the images, in pixels.
        rounds: number of alternating rounds.

    Raises:
        UserError: there are no photos, or a command failed.
    """
    from transfer.inference.names import ENGINES

    if not (photos / "validation").is_dir():
        raise UserError(f"--photos {photos}: no folder validation")
    photos = photos.resolve()  # the earlier version runs in its own folder
    network = ["--backbone", backbone, "--image_size", str(image_size)]
    figures: dict[str, Any] = {"backbone": backbone, "image_size": image_size}
    figures["photos"] = sum(1 for _ in photos.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as scratch:
        if before is not None:
            figures |= measure_commands(photos, before, network, Path(scratch, "commands"), rounds)
        run = fit_probe(photos, Path(scratch), network)
        engines = [row.name for row in ENGINES.values() if row.package is None or find_spec(row.package) is not None]
        figures["validation"] = {name: evaluated(run, name, Path(scratch)) for name in engines}
    return figures


def measure_commands(photos: Path, before: Path, network: Sequence[str], scratch: Path, rounds: int) -> dict[str, Any]:
    """Return the median seconds of each command in both versions, and how many times faster this one is."""
    versions = {"before": before, "now": Path.cwd()}
    taken: dict[tuple[str, str], list[Seconds]] = {}
    for number in range(rounds):
        for verb in VERBS:
            for name, checkout in versions.items():
                folder = scratch / f"{name}-{number}"
                words = arguments(verb, photos, folder, network) + (["--engine", "auto"] if name == "now" else [])
                taken.setdefault((verb, name), []).append(timed(verb, words, folder / f"cache-{verb}", checkout))
    return {verb: compared(taken[verb, "before"], taken[verb, "now"]) for verb in VERBS}


def compared(before: Sequence[Seconds], now: Sequence[Seconds]) -> dict[str, Any]:
    """Return the medians of both, and of the ratios round by round."""
    figures: dict[str, Any] = {}
    for place, kind in enumerate(("wall_seconds", "processor_seconds")):
        old, new = ([seconds[place] for seconds in rounds] for rounds in (before, now))
        medians = [round(statistics.median(values), 1) for values in (old, new)]
        figures[kind] = {"before": medians[0], "now": medians[1], **ratio(old, new, digits=2)}
    return figures


def arguments(verb: str, photos: Path, folder: Path, network: Sequence[str]) -> list[str]:
    """Return the words after a verb that both versions take; the probe's run is in `folder`."""
    run = str(folder / "run")
    if verb == "probe":
        return ["--dataset", "folder", "--data_root", str(photos), *network, "--out_dir", run]
    if verb == "evaluate":
        return [run, "--split", "train"]
    return [run, str(photos), "--out", str(folder / "predictions.csv")]


def fit_probe(photos: Path, scratch: Path, network: Sequence[str]) -> Path:
    """Return the folder of a probe that is fitted to some training photos, with all validation photos as val."""
    for split in ("train", "validation"):
        for folder in sorted(path for path in (photos / split).iterdir() if path.is_dir()):
            target = scratch / "photos" / split / folder.name
            target.mkdir(parents=True)
            files = sorted(folder.glob("*.jpg"))
            for file in files[:PER_CLASS] if split == "train" else files:
                (target / file.name).symlink_to(file.resolve())
    run = scratch / "run"
    words = ["--dataset", "folder", "--data_root", str(scratch / "photos"), *network, "--out_dir", str(run)]
    timed("probe", words, scratch / "cache", Path.cwd())
    return run


def timed(verb: str, words: Sequence[str], cache: Path, checkout: Path) -> Seconds:
    """Return the wall and the processor seconds of a command of a checkout.

    Raises:
        UserError: it failed.
    """
    own = {**os.environ, "PYTHONPATH": str(checkout), "XDG_CACHE_HOME": str(cache)}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "transfer", verb, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=own, cwd=checkout)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UserError(f"{verb} {' '.join(words)}: {done.stderr.strip()[-300:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def evaluated(run: Path, engine: str, scratch: Path) -> dict[str, Any]:
    """Return the accuracy of a run on val by an engine, and how close it is to float32."""
    file = scratch / f"{engine}.json"
    timed(
        "evaluate", [str(run), "--split", "val", "--engine", engine, "--json", str(file)], scratch / "cache", Path.cwd()
    )
    found = json.loads(file.read_text())
    return {"images": found["num_images"], "top1": found["metrics"]["top1"], **found["engine"]}
