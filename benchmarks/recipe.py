"""Accuracy of --recipe auto against the defaults: python -m benchmarks recipe

It trains lite0 on digits and, with --data_root, on 2,000 images of CIFAR-10 at 32 px.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from transfer.errors import UserError
from transfer.files import expanded


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_recipe`."""
    parser.add_argument("--data_root", type=expanded, metavar="DIR", help="folder that contains uoft-cs/cifar10/")


def benchmark_recipe(data_root: Path | None) -> dict[str, Any]:
    """Return accuracy and training time of lite0 with the defaults and with `--recipe auto`, with seed 0.

    The recipe runs at its own length and in the defaults' ten passes.

    Args:
        data_root: folder with the hub's files of CIFAR-10, from which 200 training and 200 test images of each class
            are taken; a tenth of the training images becomes val. Runs on them are at 32 px, so that they take minutes.
    """
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tasks: dict[str, list[str]] = {"digits": []}
        if data_root is not None:
            subset = save_cifar_subset(data_root, Path(folder) / "cifar10.parquet", per_class=200)
            tasks["cifar10_2000"] = ["--dataset", "folder", "--data_root", str(subset), "--image_size", "32"]
            tasks["cifar10_2000"] += ["--data.split_column", "split", "--data.min_crop_area", "0.64"]
        for task, words in tasks.items():
            figures[task] = {}
            auto = ["--recipe", "auto"]
            for name, choice in (("defaults", []), ("auto", auto), ("auto_10", [*auto, "--trainer.max_epochs", "10"])):
                run_dir = Path(folder) / f"{task}_{name}"
                command = [sys.executable, "-m", "transfer", "finetune", *words, *choice, "--out_dir", str(run_dir)]
                if subprocess.run(command, check=False).returncode:
                    raise UserError(f"{' '.join(command)} failed")
                results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
                figures[task][name] = {
                    "arguments": [*words, *choice],
                    **{key: results[key] for key in ("metrics", "splits", "seed", "config", "train_seconds")},
                }
    return figures


def save_cifar_subset(data_root: Path, path: Path, per_class: int) -> Path:
    """Write a table of the first images of each class and split of CIFAR-10, for dataset `folder`; return its path."""
    import datasets

    parts = []
    for split in ("train", "test"):
        files = sorted(map(str, (data_root / "uoft-cs/cifar10/plain_text").glob(f"{split}-*.parquet")))
        if not files:
            raise UserError(f"{data_root} has no uoft-cs/cifar10/plain_text/{split}-*.parquet")
        table = datasets.Dataset.from_parquet(files, cache_dir=str(path.parent / "cache"))
        labels = table["label"][:]
        rows = [row for label in range(10) for row in [i for i, own in enumerate(labels) if own == label][:per_class]]
        part = table.select(rows).rename_column("img", "image")
        parts.append(part.add_column("split", [split] * len(part)))
    datasets.concatenate_datasets(parts).to_parquet(str(path))
    return path
