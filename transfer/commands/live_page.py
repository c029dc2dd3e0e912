"""The page about a run that goes on (`finetune --open`): report.html, written anew while the run trains."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
import warnings
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.config.durations import format_duration
from transfer.config.screens import PROGRAM
from transfer.environment import command_words, environment
from transfer.errors import Diverged, Interrupted, UserError
from transfer.files import read_text, write_text
from transfer.lightning import pl
from transfer.report.run_content import Progress, RunContent, read_validations
from transfer.run_files import METRICS, REPORT
from transfer.runs.folder import is_main_process
from transfer.runs.results import Metrics, Results
from transfer.training.callbacks import EpochLog
from transfer.training.run_length import name_epoch, total_steps

if TYPE_CHECKING:
    from transfer.commands.finetune_build import Prepared
    from transfer.runs.folder import RunFolder

_SECONDS = 10.0  # between two writings, each of which takes about a tenth of a second


@contextmanager
def live_page(prepared: Prepared, run: RunFolder) -> Iterator[LivePage]:
    """Yield the page about a run, which says in the end how the run ended unless its report has taken the place."""
    page = LivePage(prepared, run, is_shown=prepared.opens and is_main_process())
    try:
        yield page
    except BaseException as error:
        page.stop(error)
        raise
    page.end()


class LivePage(pl.Callback):
    """Writes the page when a run begins and ends, and every few seconds of its training.

    It looks on: nothing waits for the device, and what cannot be written costs one warning.

    Args:
        prepared: the run.
        run: its folder.
        is_shown: whether there is a page.
    """

    def __init__(self, prepared: Prepared, run: RunFolder, is_shown: bool) -> None:
        self.callbacks: list[pl.Callback] = [self] if is_shown else []
        self._run_dir = run.path
        self._written: float | None = None  # when, by `time.monotonic`
        self._begun = 0.0, 0  # when the training began, and its steps until then
        self._place = "before training"
        self._log: EpochLog | None = None
        self._has_failed = False
        if is_shown:
            self._known, self._started = _known(prepared, run), prepared.started

    def begin(self) -> None:
        """Write the page for the first time, and open it."""
        if self.callbacks:
            self._write(Progress("", "Training has not begun yet."))
            open_page(self._run_dir / REPORT)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log = next(c for c in trainer.callbacks if isinstance(c, EpochLog))  # type: ignore[attr-defined]
        self._begun = time.monotonic(), trainer.global_step
        self._known["precision"] = trainer.precision
        self._follow(trainer, is_due=True)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._follow(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._follow(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._place = "after training"
            self._write(Progress("", "Training is done; the best checkpoint is being measured."))

    def _follow(self, trainer: pl.Trainer, is_due: bool = False) -> None:
        """Note where the training is, and write it if the page is as old as it may be."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        steps, total = trainer.global_step, total_steps(trainer)
        share = "" if math.isinf(total) else f"{steps / total:.0%}"
        place = f"in {name_epoch(trainer, trainer.current_epoch + 1)}, step {steps:,}"
        self._place = f"{place} of {total:,.0f}" if share else place
        if is_due or self._written is None or time.monotonic() - self._written >= _SECONDS:
            self._write(Progress(share, f"{self._place.capitalize()}{self._time_left(steps, total)}."))

    def _time_left(self, steps: int, total: float) -> str:
        """Return about how long the rest of the training takes, as fast as it was so far, in words."""
        started, first = self._begun
        if steps <= first or math.isinf(total):
            return ""
        seconds = (time.monotonic() - started) / (steps - first) * (total - steps)
        return f", about {format_duration(seconds)} left"

    def stop(self, error: BaseException) -> None:
        """Say that the run has stopped, and how it goes on, unless its report is there already."""
        if not self._is_in_place():
            return
        go_on = shlex.join([PROGRAM, "finetune", "--resume", str(self._run_dir)])
        self._write(
            Progress(
                value="",
                sentence=f"The run has {'stopped' if isinstance(error, Interrupted) else 'failed'} {self._place}.",
                is_running=False,
                reason=_in_words(error),
                go_on=None if isinstance(error, Diverged) else go_on,
            )
        )

    def end(self) -> None:
        """Say that the run has ended, if no report does."""
        if self._is_in_place():
            self._write(Progress("", "The run has ended.", is_running=False))

    def _is_in_place(self) -> bool:
        """Return whether the page that follows the run is there, and not the run's report."""
        path = self._run_dir / REPORT
        return self._written is not None and path.is_file() and '<meta http-equiv="refresh"' in read_text(path)

    def _write(self, progress: Progress) -> None:
        from transfer.report.page import render_page

        self._written = time.monotonic()
        try:
            write_text(self._run_dir / REPORT, render_page([self._content(progress)]))
        except Exception as error:  # which must not cost a run
            if not self._has_failed:
                warnings.warn(f"the page does not follow the run: {type(error).__name__}: {error}", stacklevel=2)
            self._has_failed = True

    def _content(self, progress: Progress) -> RunContent:
        """Return what is known of the run by now."""
        log, metrics = self._log, self._run_dir / METRICS
        best = {} if log is None else log.best_metrics()
        results = Results(
            **self._known,
            metrics={"val": Metrics(best)} if best else {},
            wall_seconds=time.perf_counter() - self._started,
            train_seconds=log.seconds or None if log else None,
            images_per_second=log.images_per_second if log else None,
        )
        rows = read_validations(metrics) if log is not None and metrics.exists() else []
        return RunContent(results, rows, progress=progress)


def _known(prepared: Prepared, run: RunFolder) -> dict[str, Any]:
    """Return the entries of the results that are known before the run."""
    config, start = prepared.config, prepared.start
    return {
        "run_dir": run.path,
        "command": command_words(),
        "dataset": config.dataset,
        "backbone": start.variant.name,
        "quoted_metric": prepared.data.dataset.quoted_metric,
        "monitor": prepared.monitor,
        "seed": config.seed,
        "image_size": start.preprocessing.image_size,
        "num_parameters": sum(p.numel() for p in prepared.module.classifier.parameters()),
        "world_size": prepared.num_processes,
        "precision": "",  # the Trainer knows it
        "config": config.to_dict(),
        "environment": environment(),
    }


def _in_words(error: BaseException) -> str:
    """Return what ended a run, as the command says it."""
    from transfer.commands.console import find_flags, name_flags
    from transfer.config.command_line import build_parser

    if isinstance(error, Interrupted):
        return str(error).partition(";")[0]
    if isinstance(error, UserError):
        return name_flags(str(error), find_flags(build_parser))
    return f"{type(error).__name__}: {error}"


def open_page(path: Path) -> None:
    """Open a page in the browser, if there is a display to show it, and print where it is."""
    path = path.resolve()
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")  # without any, Python would start a browser of the terminal
    has_display = sys.platform in ("darwin", "win32") or any(map(os.environ.get, displays))
    opened = has_display and webbrowser.open(path.as_uri())
    print(f"page: {path}" if opened else f"page: {path} (no display here: open it yourself)", flush=True)
