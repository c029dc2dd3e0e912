"""What a tracker is told of a run that was not trained, and what W&B wrote down of one without a network."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from wandb.proto import wandb_internal_pb2

from transfer.run_files import BEST, CONFIG, REPORT, RESULTS
from transfer.runs.results import Metrics, Results
from transfer.runs.test_record import make_predictions
from transfer.tracking.mistakes import count_confusions, find_mistakes
from transfer.tracking.tracker import Facts, Outcome

CLASS_NAMES = ("ant", "bee", "cat")
LABELS = np.array([0, 0, 1, 1, 2, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.2, 0.7, 0.1], [0.9, 0.05, 0.05], [0.3, 0.3, 0.4], [0.02, 0.97, 0.01]],
    np.float32,
)
# The three that are wrong, the least probable label first, and how often each class is taken for each.
WORST = ["5.png", "3.png", "1.png"]
CONFUSIONS = {
    ("ant", "ant", 1),
    ("ant", "bee", 1),
    ("bee", "bee", 1),
    ("bee", "ant", 1),
    ("cat", "cat", 1),
    ("cat", "bee", 1),
}


def facts(run_dir: Path, **changes: Any) -> Facts:
    """A run that begins, in a folder that is made."""
    run_dir.mkdir(parents=True, exist_ok=True)
    known = {"name": "photos_lite0/1", "group": "cell_3", "tags": {"dataset": "photos", "backbone": "lite0"}}
    settings = {"image_size": 48, "optim": {"lr": 0.02, "sam_rho": None}, "fingerprint": {"train": "abc"}}
    return Facts(**{"run_dir": run_dir, "settings": settings, **known, **changes})


def outcome(run_dir: Path, has_pictures: bool = True) -> Outcome:
    """What comes of a run of 12 steps: its best validation, its test, six predictions, and its files."""
    for name in (BEST, CONFIG, RESULTS, REPORT):
        (run_dir / name).write_text(name)
    metrics = {"val": Metrics(top1=0.75, loss=0.5), "test": Metrics(top1=0.5, loss=0.9)}
    results = Results(run_dir=run_dir, command=[], dataset="photos", backbone="lite0", metrics=metrics, steps=12)
    found = make_predictions(LABELS, PROBABILITIES, [f"{k}.png" for k in range(6)], CLASS_NAMES)
    picture = Image.new("RGB", (8, 8), "red") if has_pictures else None
    return Outcome(results, count_confusions(found), find_mistakes(found, lambda place: picture))


def read_records(folder: Path) -> Iterator[Any]:
    """The records of W&B's offline runs below a folder, in the order of their starts.

    The file is a log of LevelDB behind seven bytes: blocks of 32 KiB, in them parts of records, each behind its
    checksum (4 bytes), length (2) and kind (1: whole; 2, 3, 4: first, middle, last part).
    """
    for path in sorted(folder.rglob("offline-run-*/*.wandb")):
        content, at, record = path.read_bytes(), 7, b""
        while at + 7 <= len(content):
            left = 2**15 - at % 2**15
            if left < 7:
                at += left
                continue
            _, length, kind = struct.unpack_from("<IHB", content, at)
            record += content[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                yield wandb_internal_pb2.Record.FromString(record)
                record = b""


class WrittenRun:
    """A W&B run as its offline files have it.

    Attributes:
        runs: each start: id, name, group, tags, resume.
        config, summary: the last value of each entry, by its name.
        history: rows of entries.
        artifacts: the names of their files, by their type.
        exit_codes: one for each end.
        has_stats: whether the system was measured.
    """

    def __init__(self, folder: Path) -> None:
        self.runs: list[Any] = []
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.artifacts: dict[str, list[str]] = {}
        self.exit_codes: list[int] = []
        self.has_stats = False
        for record in read_records(folder):
            getattr(self, f"_{record.WhichOneof('record_type')}", lambda each: None)(record)

    def _run(self, record: Any) -> None:
        self.runs.append(record.run)
        self.config |= _entries(record.run.config.update)

    def _config(self, record: Any) -> None:
        self.config |= _entries(record.config.update)

    def _summary(self, record: Any) -> None:
        self.summary |= _entries(record.summary.update)

    def _history(self, record: Any) -> None:
        self.history.append(_entries(record.history.item))

    def _artifact(self, record: Any) -> None:
        files = self.artifacts.setdefault(record.artifact.type, [])
        files += [file.path for file in record.artifact.manifest.contents]

    def _exit(self, record: Any) -> None:
        self.exit_codes.append(record.exit.exit_code)

    def _stats(self, record: Any) -> None:
        self.has_stats = True


def written_run(folder: Path, ends: int = 1) -> WrittenRun:
    """Wait until W&B's own process has written so many ends, and return the run."""
    deadline = time.monotonic() + 60
    while len((written := WrittenRun(folder)).exit_codes) < ends:
        assert time.monotonic() < deadline, f"{len(written.exit_codes)} ends in {folder}"
        time.sleep(0.05)
    return written


def _entries(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
