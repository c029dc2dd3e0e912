"""A sweep of finetune without W&B: the same file, by processes of this machine; stopped, it goes on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transfer.errors import Interrupted, UserError
from transfer.experiments.child_run import RESULTS, run_command
from transfer.experiments.launchers import device_slots, run_pool
from transfer.experiments.locks import CellIsTaken, locked
from transfer.experiments.processes import Children
from transfer.experiments.sweeps import draw, load_sweep
from transfer.experiments.table.cell_run import describe
from transfer.files import write_json

DRAWS = "sweep.json"


def run_sweep(
    path: Path, folder: Path, workers: int | None, devices: int, count: int | None, seed: int, gpus: Sequence[str]
) -> int:
    """Runs a sweep file's runs as FOLDER/00, 01, ... and prints the best; gives the number of runs that failed.

    Args:
        workers: runs at a time; None: as many as there are GPUs for, else one.
        devices: GPUs of each run.
        count: most runs; None: all of a grid, else the file's run_cap.
        seed: of random draws.
        gpus: that the runs may use; without any, this process is forked for each.

    Raises:
        UserError: not such a file, or the folder is of another sweep or in use.
        Interrupted: Ctrl-C or SIGTERM.
    """
    sweep = load_sweep(path)
    if Path(sweep.program).name != "finetune.py":
        raise UserError(f"{path}: runs {sweep.program}; only sweeps of finetune.py run here (cells: table run)")
    draws = draw(sweep, count, seed)
    if sweep.method == "bayes":
        print(f"without W&B, bayes is a random search over the same ranges: {len(draws)} draws, seed {seed}")
    planned = {"sweep": str(path), "method": sweep.method, "runs": draws}
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / DRAWS).exists() and json.loads((folder / DRAWS).read_text())["runs"] != draws:
        raise UserError(f"{folder} holds another sweep, or other draws of this one: give a new --out_dir")
    os.environ.setdefault("WANDB_MODE", "offline")
    try:
        with locked(folder / "lock") as lock, Children(fork=not gpus) as children:
            write_json(folder / DRAWS, planned)

            def tasks() -> Iterator[tuple[str, list[str]]]:
                for index, values in enumerate(draws):
                    if command := run_command(folder / f"{index:02d}", sweep.arguments(values)):
                        yield f"{index:02d}", command

            slots = device_slots(workers, devices, gpus)
            for name, status in run_pool(tasks(), slots, children, logs=folder, keep_open=lock):
                if status and children.stopped is None:
                    print(f"{folder / name}: exit status {status}; see {folder / name}.log", file=sys.stderr)
            if children.stopped is not None:
                go_on = f"efficientnet-transfer table sweep {path} --out_dir {folder}, with the same options"
                raise Interrupted(children.stopped, go_on)
    except CellIsTaken:
        raise UserError(f"{folder}: another process is at this sweep") from None
    return _print_best(folder, draws, sweep.metric)


def _print_best(folder: Path, draws: list[dict[str, Any]], metric: Any) -> int:
    split, _, name = metric.get("name", "val/top1").partition("/")
    sign = -1 if metric.get("goal") == "minimize" else 1
    scores = {}
    for index in range(len(draws)):
        results = folder / f"{index:02d}" / RESULTS
        if results.exists():
            scores[index] = json.loads(results.read_text())["metrics"][split][name]
    if scores:
        best = max(scores, key=lambda index: sign * scores[index])
        print(
            f"best of {len(scores)}: {folder / f'{best:02d}'} {split}/{name} {scores[best]:.4f}{describe(draws[best])}"
        )
    return len(draws) - len(scores)
