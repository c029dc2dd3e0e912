"""Runs that are killed at a chosen moment, resumed, and compared with an uninterrupted one: `python -m ... FOLDER`.

Each run is a fork of this process, which has imported everything and computed nothing: a process that has computed
gradients cannot be forked. A moment is the n-th call that opens for writing, renames, removes or makes something in the
run's folder, or that computes a batch.
"""

from __future__ import annotations

import csv
import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from tests.support.runs import FOREIGN_VARIABLES, save_classes

RUN = "run"
CHEAP = (
    *("--backbone", "b0@d=0.3,w=0.25", "--pretrained", "false", "--image_size", "32", "--data.num_workers", "0"),
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--data.batch_size", "4", "--optim.lr", "0.05"),
    *("--report", "false", "--out_dir", RUN, "--dataset", "folder", "--data_root"),
)
SCENARIOS = {
    "accumulation, average, mixup, growing images, early stopping": (
        *("--image_size", "38", "--progressive", "32", "--dropout", "0.3"),
        *("--trainer.accumulate_grad_batches", "2", "--ema_half_life", "0.2", "--loss.mixup_alpha", "0.2"),
        *("--early_stopping", "2", "--monitor", "loss", "--trainer.max_epochs", "6", "--optim.schedule", "constant"),
        *("--trainer.max_steps", "12"),
    ),
    "validation in mid-epoch, freezing, sam, cutmix, recompute": (
        *("--trainer.val_check_interval", "2", "--freeze", "until-epoch 1", "--optim.sam_rho", "0.05"),
        *("--loss.cutmix_alpha", "1", "--bn", "recompute", "--trainer.max_steps", "9", "--optim.name", "adamw"),
    ),
    "a final fit without validation": (
        *("--data.train_on", "trainval", "--ema_half_life", "0.3", "--trainer.max_epochs", "3"),
        *("--trainer.max_steps", "12", "--optim.name", "rmsprop"),
    ),
}
MOMENTS = dict(zip(SCENARIOS, (22, 10, 8), strict=True))

# What tells of the time, the process and the state of the code, or of how often the test was begun.
PASSING = (
    *("train_seconds", "wall_seconds", "images_per_second", "peak_memory_bytes", "resumed", "command", "test_reads"),
    *("git_commit",),
)


@dataclass(frozen=True)
class Stop:
    """A signal that a run gets at its n-th moment, counted from 1; the number 0 never comes."""

    moment: int = 0
    number: int = signal.SIGKILL


def start(folder: Path, argv: tuple[str, ...], stop: Stop) -> tuple[int, list[str]]:
    """Run finetune in a fork of this process and return its exit status, negative for a signal, and its moments."""
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            out = os.open("out.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            moments = open("moments.txt", "w", encoding="utf-8", buffering=1)  # noqa: SIM115  # until the process ends
            watch(lambda name: moments.write(f"{name}\n"), stop)
            from transfer.commands import finetune

            status = finetune.main(list(argv))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), (folder / "moments.txt").read_text().splitlines()


def watch(note: Callable[[str], Any], stop: Stop) -> None:
    """Note every moment of this process, and send it a signal at one of them."""
    from transfer.training.module import TransferModule

    count = 0

    def occur(name: str) -> None:
        nonlocal count
        count += 1
        note(name)
        if count == stop.moment:
            os.kill(os.getpid(), stop.number)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir") or not isinstance(arguments[0], str):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = Path(arguments[0])
        if RUN in path.parts:
            occur(f"{event} {path.name.replace(str(os.getpid()), 'PID')}")

    sys.addaudithook(audit)
    for name in ("training_step", "validation_step", "test_step"):
        setattr(TransferModule, name, _noted(getattr(TransferModule, name), lambda name=name: occur(name)))


def _noted(function: Callable[..., Any], note: Callable[[], None]) -> Callable[..., Any]:
    def noted(*arguments: Any) -> Any:
        note()
        return function(*arguments)

    return noted


def finish(folder: Path, argv: tuple[str, ...]) -> int:
    """Continue a run as its user would: resume it, or start it again if it had not begun."""
    run = folder / RUN
    if (run / "results.json").exists():
        return 0
    begun = (run / "config.yaml").exists()
    return start(folder, ("--resume", RUN) if begun else argv, Stop())[0]


def differences(run: Path, whole: Path) -> list[str]:
    """Return what differs between the files of two runs."""
    names, expected = ({path.name for path in folder.iterdir()} - {"run.lock"} for folder in (run, whole))
    found = [f"only in one: {name}" for name in sorted(names ^ expected)]
    for name in sorted(names & expected - {"test_reads.json"}):
        found += [f"{name}: {where}" for where in unequal(load(run / name), load(whole / name))]
    return found


def load(path: Path) -> Any:
    """Return the content of a file of a run, without what tells of the time that the run took."""
    match path.name:
        case "config.yaml":
            return yaml.safe_load(path.read_text(encoding="utf-8"))
        case "metrics.csv":
            rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
            return [_without_passing(row) for row in rows]
        case "results.json":
            return _without_passing(json.loads(path.read_text(encoding="utf-8")))
        case "test_predictions.npz" | "val_predictions.npz":
            with np.load(path) as arrays:
                return {name: arrays[name].tolist() for name in arrays}
        case "best.ckpt" | "last.ckpt":
            content = torch.load(path, weights_only=True)
            for name, state in content["callbacks"].items():
                if name.startswith("EpochLog"):
                    del state["seconds"]
                    state["rows"] = [_without_passing(row) for row in state["rows"]]
            return {name: value for name, value in content.items() if name != "loops"}  # Lightning's own counters
        case _:
            return path.read_bytes()


def _without_passing(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in PASSING}


def unequal(left: Any, right: Any, where: str = "") -> list[str]:
    """Return the places at which two nested contents differ by a bit."""
    if type(left) is not type(right):
        return [f"{where}: {type(left).__name__}, {type(right).__name__}"]
    if isinstance(left, dict) and left.keys() == right.keys():
        return [place for key in left for place in unequal(left[key], right[key], f"{where}/{key}")]
    if isinstance(left, list | tuple) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [place for i, (a, b) in pairs for place in unequal(a, b, f"{where}/{i}")]
    if isinstance(left, torch.Tensor):
        return [] if torch.equal(left, right) else [f"{where}: tensors differ"]
    return [] if left == right else [f"{where}: {left!r:.60}, {right!r:.60}"]


def stops(moments: list[str], count: int) -> list[Stop]:
    """Return kills spread evenly over a run, and a SIGTERM in each of its validations and in its test."""
    kills = [Stop(int(moment)) for moment in np.linspace(1, len(moments), count)]
    before = ["", *moments]
    begun = [i for i, (last, now) in enumerate(zip(before, moments, strict=False), 1) if last != now]
    ends = [Stop(i, signal.SIGTERM) for i in begun if moments[i - 1] in ("validation_step", "test_step")]
    return kills + ends


def main() -> None:
    """Write a line of JSON for each run that was stopped: scenario, moment, status, and what differs."""
    torch.set_num_threads(1)
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    warm()
    folder = Path(sys.argv[1])
    data = str(save_classes(folder / "photos", {"cat": 8, "dog": 8, "owl": 8}))
    for number, (scenario, words) in enumerate(SCENARIOS.items()):
        argv = (*CHEAP, data, *words)
        whole = folder / f"{number}"
        status, moments = start(whole, argv, Stop())
        assert status == 0, (whole / "out.txt").read_text()
        for stop in stops(moments, MOMENTS[scenario]):
            place = folder / f"{number}-{stop.moment}-{stop.number}"
            status, _ = start(place, argv, stop)
            resumed = finish(place, argv)
            found = differences(place / RUN, whole / RUN) if resumed == 0 else [(place / "out.txt").read_text()[-500:]]
            line = {"scenario": scenario, "number": stop.number, "moment": moments[stop.moment - 1], "status": status}
            print(json.dumps({**line, "at": stop.moment, "differences": found}), flush=True)


def warm() -> None:
    """Import what a run imports while it works."""
    import importlib

    from transfer.commands.console import find_flags
    from transfer.config.command_line import build_parser

    for name in (
        *("datamodules", "datamodules.datamodule", "transfer.commands.finetune", "transfer.commands.finetune_report"),
        *("transfer.commands.results_table", "transfer.training.trainer", "transfer.runs.predictor"),
        *("transfer.runs.test_record", "transfer.weights.build", "transfer.config.protocols", "torch._dynamo"),
        *("datamodules.build", "datamodules.reading.class_folders", "datamodules.sheets.folder", "pillow_heif"),
        *("transfer.commands.calibrate", "transfer.commands.finetune_folds", "transfer.commands.finetune_tracking"),
        *("transfer.commands.next_steps", "transfer.commands.report", "transfer.costs.live_bytes"),
        *("transfer.runs.run_start", "transfer.runs.teacher", "transfer.tracking.registry", "safetensors.numpy"),
        *("torch.utils.serialization", "torch.profiler._cupti_monitor", "rich._emoji_codes"),
    ):
        importlib.import_module(name)
    Image.init()
    find_flags(build_parser)
    gc.freeze()  # a collection in a fork would copy every page


if __name__ == "__main__":
    main()
