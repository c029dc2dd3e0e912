"""All runs below some folders: what each was, what it reached, and on which images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from transfer.config.command_line import load_config
from transfer.errors import MissingData, UserError
from transfer.files import read_rows
from transfer.locks import is_held
from transfer.run_files import BEST, CONFIG, LAST, LOCK, METRICS, PROBE, RESULTS
from transfer.runs.names import name_data
from transfer.runs.results import Metrics, Results, read_results

State = Literal["finished", "running", "interrupted", "failed", "damaged"]
_TRACES = {CONFIG, RESULTS, BEST, LAST, METRICS}  # a folder with any of them holds a run, or what is left of one


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric on one split of a run's data.

    Attributes:
        value: in [0, 1].
        low, high: its 95% interval; None where the run has none.
        num_images: images of the split.
        fingerprint: digest of its images and labels.
    """

    value: float
    low: float | None
    high: float | None
    num_images: int
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A run as it stands in a list. Of a run that has not finished, only what its configuration says is known.

    Attributes:
        run_dir: its folder.
        state: `finished`; `running`, which a process holds; `interrupted`, to be resumed; `failed` before its first
            checkpoint; `damaged`, a file cannot be read.
        ended: when its last file was written, in UTC.
        data: the dataset's name, or that of the folder of the user's own images.
        backbone, image_size, seed: of its network; `image_size` in pixels.
        method: `full`, `lpft` or `probe`.
        fold: place and number of folds, as `1/5`, if val is a fold of train and val.
        metric: what `val` and `test` hold: the metric that the literature quotes, or `map` for several labels.
        val, test: its scores.
        seconds: wall-clock time.
        note: what to know of it: the epochs of an interrupted run, test images that were trained on, what is damaged.
    """

    run_dir: Path
    state: State
    ended: datetime
    data: str = ""
    backbone: str = ""
    method: str = ""
    image_size: int | None = None
    seed: int | None = None
    fold: str | None = None
    metric: str = ""
    val: Score | None = None
    test: Score | None = None
    seconds: float | None = None
    note: str = ""

    @property
    def measured_on(self) -> tuple[str, ...]:
        """What two runs must share for their scores to be compared: data, metric, and the images of val and test.

        Runs of folds share only test: together they are in place of one run, whose val is all of their images.
        """
        val, test = (score.fingerprint if score else "" for score in (self.val, self.test))
        return (self.data, self.metric, str(self.run_dir.parent) if self.fold else val, test)


def list_runs(folders: Iterable[Path]) -> list[ListedRun]:
    """Return every run in some folders and below them, each once.

    Raises:
        MissingData: there is no such folder.
    """
    found: dict[Path, ListedRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise MissingData(f"{folder}: no such folder")
        for place, folders_below, files in os.walk(folder):
            folders_below.sort()
            if _TRACES & set(files):
                path = Path(place)
                folders_below.clear()
                found.setdefault(path.resolve(), _read_run(path))
    return list(found.values())


def _read_run(path: Path) -> ListedRun:
    times = [file.stat().st_mtime for name in _TRACES if (file := path / name).is_file()]
    ended = datetime.fromtimestamp(max(times, default=0), UTC).replace(microsecond=0)
    try:
        return _finished(read_results(path), ended) if (path / RESULTS).is_file() else _unfinished(path, ended)
    except UserError as error:
        return ListedRun(run_dir=path, state="damaged", ended=ended, note=str(error))


def _finished(results: Results, ended: datetime) -> ListedRun:
    config, metrics = results.config, results.metrics
    metric = results.shown_metric({name for found in metrics.values() for name in found})
    seen = results.seen_images.get("test", 0)
    return ListedRun(
        run_dir=results.run_dir,
        state="finished",
        ended=ended,
        data=name_data(results.dataset, config.get("data_root")),
        backbone=results.backbone,
        method="probe" if results.probe else config.get("method") or "full",
        image_size=results.image_size or None,
        seed=results.seed,
        fold=_fold(config),
        metric=metric,
        val=_score(results, "val", metric),
        test=_score(results, "test", metric),
        seconds=results.wall_seconds or None,
        note=f"{seen} test images were trained on" if seen else "",
    )


def _score(results: Results, split: str, metric: str) -> Score | None:
    if split not in results.splits or metric not in results.metrics.get(split, Metrics()):
        return None
    interval = results.intervals.get(split, {}).get(metric)
    return Score(
        value=results.metrics[split][metric],
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        num_images=results.splits[split].size,
        fingerprint=results.splits[split].fingerprint,
    )


def _unfinished(path: Path, ended: datetime) -> ListedRun:
    config = load_config(path / CONFIG)
    is_probe = (path / PROBE).is_file()
    return ListedRun(
        run_dir=path,
        state="running" if is_held(path / LOCK) else "interrupted" if (path / LAST).is_file() else "failed",
        ended=ended,
        data=name_data(config.dataset, config.data_root),
        backbone=config.backbone,
        method="probe" if is_probe else config.method or "full",
        image_size=config.image_size,
        seed=config.seed,
        fold=_fold(config.to_dict()),
        note="" if is_probe else _progress(path, config.trainer.max_epochs),
    )


def _fold(config: Mapping[str, Any]) -> str | None:
    return None if config.get("fold") is None else f"{config['fold']}/{config['folds']}"


def _progress(path: Path, max_epochs: int) -> str:
    rows = read_rows(path / METRICS) if (path / METRICS).is_file() else []
    if not rows:
        return "before its first validation"
    return f"epoch {rows[-1].get('epoch', '?')}" + (f" of {max_epochs}" if max_epochs > 0 else "")
