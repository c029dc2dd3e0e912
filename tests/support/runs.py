"""Runs of the command, in this process or their own, and what they leave behind."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.data import PREPROCESSING
from transfer.commands import finetune
from transfer.config.command_line import parse_config, save_config
from transfer.weights.build import build_classifier

ROOT = Path(__file__).parents[2]


SHARED_DATA = ROOT.parent / "shared" / "data"


# A run of seconds: bad accuracies, but everything is read, computed and written.
CHEAP = (
    *("--image_size", "32", "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "4"),
    *("--data.num_workers", "0", "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--report", "false"),
)


# What would tell a run that it is one of several processes, turn trackers on, or say how threads wait
# and what becomes of freed memory.
FOREIGN_VARIABLES = (
    "TRANSFER_RUN_DIR",
    "SLURM_JOB_ID",
    "TORCHELASTIC_RUN_ID",
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "GOMP_SPINCOUNT",
    "OMP_WAIT_POLICY",
    "MALLOC_ARENA_MAX",
)


Rows = list[dict[str, str]]


def call(main: Callable[[list[str]], int], *argv: str | Path) -> int:
    """A script's exit status, in this process: saves the seconds that importing torch takes."""
    precision = torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN_VARIABLES:
            patch.setenv(name, "")  # so that what the script sets is undone too
            patch.delenv(name)
        try:
            return main([str(word) for word in argv])
        finally:
            torch.set_float32_matmul_precision(precision)


def untrained_run(
    run_dir: Path,
    class_names: Sequence[str],
    *words: str | Path,
    threshold: float | None = None,
    fingerprint: Mapping[str, str] | None = None,
) -> Path:
    """The folder of a run without training, of which `load_run` loads the network.

    `words` are flags of its command; `threshold` makes it one of several labels per image.
    """
    several = () if threshold is None else ("--data.multilabel", "true", "--loss.name", "bce")
    own = ("--dataset", "folder", "--data_root", "photos", "--pretrained", "false", "--image_size", "32", *several)
    run_dir.mkdir(parents=True)
    save_config(parse_config([*own, *map(str, words)])[0], run_dir / "config.yaml")
    preprocessing = asdict(PREPROCESSING)
    saved = {name: list(value) if isinstance(value, tuple) else value for name, value in preprocessing.items()}
    saved |= {"class_names": list(class_names), "fingerprint": dict(fingerprint or {})}
    torch.manual_seed(0)
    state = build_classifier("lite0", len(class_names)).state_dict()
    state["head.fc.weight"].normal_()  # a new head is all zeros, which gives every image the same answer
    content = {"state_dict": {f"classifier.{name}": tensor for name, tensor in state.items()}, "DataModule": saved}
    torch.save({**content, "threshold": threshold}, run_dir / "best.ckpt")
    (run_dir / "results.json").write_text("{}")
    return run_dir


def environment(**extra: str) -> dict[str, str]:
    """A user's, with one thread per process: on a shared machine, threads that wait for each other lose minutes."""
    foreign = (*FOREIGN_VARIABLES, "PYTEST_CURRENT_TEST")
    own = {name: value for name, value in os.environ.items() if name not in foreign and not name.startswith("WANDB")}
    return {**own, "OMP_NUM_THREADS": "1", **extra}


def run_script(*argv: str | Path, timeout: float = 300, **extra: str) -> subprocess.CompletedProcess[str]:
    """`efficientnet-transfer finetune ARGV` from the repository's root, as a user types it."""
    command = [sys.executable, "scripts/finetune.py", *map(str, argv)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**extra), capture_output=True, text=True, timeout=timeout, check=False
    )


def read_rows(run_dir: Path) -> Rows:
    with open(run_dir / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_results(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "results.json").read_text())


def read_weights(run_dir: Path, name: str = "best.ckpt") -> dict[str, Tensor]:
    return torch.load(run_dir / name, map_location="cpu", weights_only=True)["state_dict"]


def same_weights(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether every tensor agrees to the last bit."""
    assert left.keys() == right.keys() and len(left) > 100
    return all(torch.equal(left[name], right[name]) for name in left)


def best_row(rows: Rows, metric: str = "top1") -> dict[str, float]:
    """The val metrics of the best epoch; of equals that of lower loss, then the last."""
    goodness = [(float(row[f"val/{metric}"]), -float(row["val/loss"]), number) for number, row in enumerate(rows)]
    best = rows[max(goodness)[2]]
    return {name.removeprefix("val/"): float(value) for name, value in best.items() if name.startswith("val/")}


def save_photo(path: Path, seed: int, value: int | None = None) -> Path:
    """Noise; or noise around one grey value, which a network can learn."""
    rng = np.random.default_rng(seed)
    low, high = (0, 256) if value is None else (max(value - 20, 0), min(value + 20, 256))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(low, high, (24, 30, 3), dtype=np.uint8)).save(path)
    return path


def save_classes(root: Path, counts: dict[str, int]) -> Path:
    """Class folders of PNG files; each class has its own grey."""
    for position, (name, count) in enumerate(counts.items()):
        value = round(255 * position / max(len(counts) - 1, 1))
        for index in range(count):
            save_photo(root / name / f"{index}.png", 1000 * position + index, value)
    return root


def save_csv(path: Path, rows: list[list[str]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """The message of a command line that must be refused: exit status 2, nothing on stdout, no traceback."""
    capsys.readouterr()
    assert call(finetune.main, *argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    progress, found, message = captured.err.partition("error: ")
    assert found and (progress == "" or "%" in progress or "examples" in progress), captured.err
    return message.rstrip("\n")
