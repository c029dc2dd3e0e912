"""Whole commands on photos, and the accuracy of each engine: python -m benchmarks photos

A linear probe is fitted to some of the training photos. `predict` then classifies all photos by the engine that `auto`
takes and by `torch`, against a loop with the same decoder, the plain network in float32 and glibc's allocator as it is;
each is a process of its own, from start to end. `evaluate` measures every installed engine on the validation photos.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transfer.errors import UserError
from transfer.files import expanded

_PER_CLASS = 40  # photos that the probe is fitted to


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_photos`."""
    folder = "folder with train/CLASS/ and validation/CLASS/; default: ../shared/data/clothing"
    parser.add_argument("--photos", type=expanded, default=Path("../shared/data/clothing"), metavar="DIR", help=folder)
    parser.add_argument("--backbone", default="lite0", help="default: lite0")
    parser.add_argument("--image_size", type=int, default=224, metavar="PX", help="default: 224")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="default: 1")


def benchmark_photos(photos: Path, backbone: str, image_size: int, rounds: int) -> dict[str, Any]:
    """Return seconds and images per second of each way to classify all photos, and each engine's accuracy.

    Args:
        photos: folder with `train` and `validation`, in folders of classes.
        backbone: name of the backbone.
        image_size: side of the images, in pixels.
        rounds: number of alternating rounds.

    Raises:
        UserError: there are no photos, or a process failed.
    """
    from transfer.inference.names import ENGINES

    if not (photos / "validation").is_dir():
        raise UserError(f"--photos {photos}: no folder validation")
    num_photos = sum(1 for _ in photos.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as scratch:
        run = fit_probe(photos, Path(scratch), backbone, image_size)
        rows = Path(scratch) / "rows.csv"
        ways = {
            "plain loop": [
                sys.executable,
                "-c",
                f"from benchmarks.photos import loop; loop({str(run)!r}, {str(photos)!r})",
            ],
            **{
                f"predict --engine {name}": [
                    *_command("predict"),
                    str(run),
                    str(photos),
                    "--out",
                    str(rows),
                    "--engine",
                    name,
                ]
                for name in ("torch", "auto")
            },
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        said = ""
        for _ in range(rounds):
            for name, command in ways.items():
                seconds, said = timed(command)
                taken[name].append(seconds)
        figures: dict[str, Any] = {"backbone": backbone, "image_size": image_size, "photos": num_photos, "auto": said}
        for name, values in taken.items():
            wall, processor = (statistics.median(column) for column in zip(*values, strict=True))
            ratios = [plain[0] / own[0] for plain, own in zip(taken["plain loop"], values, strict=True)]
            figures[name] = {
                "wall_seconds": round(wall, 1),
                "processor_seconds": round(processor, 1),
                "images_per_second": round(num_photos / wall, 1),
                "ratio": round(statistics.median(ratios), 2),
            }
        engines = [row.name for row in ENGINES.values() if row.package is None or find_spec(row.package) is not None]
        figures["validation"] = {name: evaluated(run, name, Path(scratch)) for name in engines}
    return figures


def _command(verb: str) -> list[str]:
    return [sys.executable, "-m", "transfer", verb]


def fit_probe(photos: Path, scratch: Path, backbone: str, image_size: int) -> Path:
    """Return the folder of a probe that is fitted to some training photos, with all validation photos as val."""
    for split in ("train", "validation"):
        for folder in sorted(path for path in (photos / split).iterdir() if path.is_dir()):
            target = scratch / "photos" / split / folder.name
            target.mkdir(parents=True)
            files = sorted(folder.glob("*.jpg"))
            for file in files[:_PER_CLASS] if split == "train" else files:
                (target / file.name).symlink_to(file.resolve())
    run = scratch / "run"
    options = ["--dataset", "folder", "--data_root", scratch / "photos", "--backbone", backbone, "--out_dir", run]
    timed([*_command("probe"), *map(str, options), "--image_size", str(image_size), "--data.cache_dir", str(scratch)])
    return run


def timed(command: list[str]) -> tuple[tuple[float, float], str]:
    """Return the wall and the processor seconds of a process, and what it says on stderr.

    Raises:
        UserError: it failed.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UserError(f"{' '.join(command[:4])}: {done.stderr.strip()[-300:]}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (wall, processor), done.stderr.strip()


def loop(run_dir: str, photos: str) -> None:
    """Classify all photos one batch after the other, with the run's plain network."""
    import numpy as np
    import torch

    from datamodules.images.decode import decode_image
    from datamodules.images.listing import list_images
    from datamodules.images.transforms import build_eval_transform
    from transfer.runs.predictor import load_run

    run = load_run(run_dir)
    transform, paths = build_eval_transform(run.preprocessing), list_images(Path(photos))
    for start in range(0, len(paths), 64):
        pixels = [transform(image=decode_image(path))["image"] for path in paths[start : start + 64]]
        run.probabilities(torch.from_numpy(np.stack(pixels)))


def evaluated(run: Path, engine: str, scratch: Path) -> dict[str, Any]:
    """Return the accuracy of a run on val by an engine, and how close it is to float32."""
    file = scratch / f"{engine}.json"
    timed([*_command("evaluate"), str(run), "--split", "val", "--engine", engine, "--json", str(file)])
    found = json.loads(file.read_text())
    return {"images": found["num_images"], "top1": found["metrics"]["top1"], **found["engine"]}
