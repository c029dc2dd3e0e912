"""The runs of a sweep file on this machine, without W&B: trials of a search, each a process of finetune."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transfer.errors import Diverged, Interrupted, UserError
from transfer.experiments.child_run import ALLOW_USER_CODE, run_command
from transfer.experiments.devices import device_slots
from transfer.experiments.processes import Children, Task, last_lines, run_pool
from transfer.experiments.search import Ended, Search, Taken
from transfer.experiments.sweeps import Sweep
from transfer.files import read_rows
from transfer.run_files import METRICS, RESULTS
from transfer.runs.results import read_results

_DEFAULT_METRIC = "val/top1"
_LOGGER, _NO_TEST = "logger", "trainer.limit_test_batches"  # what a sweep sets for W&B, and not to read test


@dataclass
class SweepRuns:
    """The runs of a sweep file, FOLDER/00, 01, ...

    Attributes:
        sweep: the sweep.
        folder: folder of the runs, of their logs, and of the search.
        seed: seed of random draws.
        allow_user_code: whether runs may import a backbone or a head of one's own that the file names.

    Raises:
        UserError: the folder holds another sweep, or a search cannot be made of this one.
    """

    sweep: Sweep
    folder: Path
    seed: int
    allow_user_code: bool = False

    def __post_init__(self) -> None:
        terms = self.sweep.early_terminate
        kept = ("program", "command", "parameters", "metric", "early_terminate")
        self.search = Search(
            self.folder,
            self.sweep.suggest,
            method=self.sweep.method,
            maximize=self.sweep.metric.get("goal") != "minimize",
            seed=self.seed,
            points=self.sweep.points(),
            halving=None if terms is None else terms.halving(),
            plan={name: value for name, value in asdict(self.sweep).items() if name in kept},
        )

    @property
    def metric(self) -> str:
        """The metric that is optimized, as `val/top1`."""
        return self.sweep.metric.get("name", _DEFAULT_METRIC)

    def compute(self, most: int, workers: int | None, devices: int, gpus: Sequence[str], go_on: str) -> None:
        """Compute the runs that have no result and that no other process computes.

        Args:
            most: runs in all.
            workers: runs at a time; None takes as many as there are GPUs for, or one without GPUs.
            devices: GPUs of each run.
            gpus: GPUs that may be used; without any, this process is forked for each run.
            go_on: command that the user types after an interruption.

        Raises:
            UserError: there are too few GPUs.
            Interrupted: Ctrl-C or SIGTERM, after the runs have saved their state.
        """
        slots = device_slots(workers, devices, gpus)
        running: dict[str, Taken] = {}

        def tasks() -> Iterator[Task]:
            while (taken := self.search.take(most)) is not None:
                run_dir = self.folder / _name(taken.number)
                if command := run_command(run_dir, self.arguments(taken.settings)):
                    running[run_dir.name] = taken
                    log = run_dir.with_name(f"{run_dir.name}.log")
                    yield Task(run_dir.name, command, log, taken.lock, _Watch(taken, run_dir, self.metric))
                else:  # a process died between the end of the run and its note
                    self._note(taken, 0)

        try:
            with Children(fork=not gpus) as children:
                for name, status in run_pool(tasks(), slots, children):
                    if (self.folder / name / RESULTS).exists() or children.stopped is None:
                        self._note(running.pop(name), status)
                if children.stopped is not None:
                    raise Interrupted(children.stopped, go_on)
        finally:
            for taken in running.values():
                taken.release()

    def arguments(self, settings: dict[str, Any]) -> list[str]:
        """Return the arguments of finetune for a run, without `--out_dir`."""
        words = self.sweep.finetune_arguments({name: value for name, value in settings.items() if name != _LOGGER})
        is_logged = any(word.startswith("--logger") for word in words)  # by the file's own command
        return [*words, *["--logger=csv"] * is_logged, *[ALLOW_USER_CODE] * self.allow_user_code]

    def best_arguments(self, settings: dict[str, Any]) -> list[str]:
        """Return the arguments of finetune that train a run again, and test it."""
        return self.arguments({name: value for name, value in settings.items() if name != _NO_TEST})

    def _note(self, taken: Taken, status: int) -> None:
        """Write down what became of a run that has ended, and print why, if it failed."""
        run_dir = self.folder / _name(taken.number)
        if (run_dir / RESULTS).exists():
            try:
                value = self._value(run_dir)
            except UserError as error:
                print(error, file=sys.stderr)
                self.search.fail(taken, str(error))
                return
            taken.report(_validated(run_dir, self.metric))
            self.search.finish(taken, value)
        elif taken.is_hopeless:
            self.search.stop(taken)
        else:
            log = run_dir.with_name(f"{run_dir.name}.log")
            reason = f"{run_dir}: exit status {status}: {last_lines(log, 1)} ({log})"
            print(reason, file=sys.stderr)
            self.search.fail(taken, reason, because_of_settings=status == Diverged.STATUS)

    def _value(self, run_dir: Path) -> float:
        """Return what a finished run reached.

        Raises:
            UserError: its results cannot be read, or have no finite value of the metric.
        """
        split, _, name = self.metric.partition("/")
        measured = read_results(run_dir).metrics.get(split)
        value = math.nan if measured is None else measured.get(name, math.nan)
        if not math.isfinite(value):
            raise Diverged(f"{run_dir}: no finite {self.metric}, left out")
        return value

    def ended(self) -> list[Ended]:
        """Return what became of each run, the best first."""
        return self.search.ended()


def _name(number: int) -> str:
    """Return the name of a run's folder."""
    return f"{number:02d}"


def _validated(run_dir: Path, metric: str) -> list[float]:
    """Return the metric at each validation of a run so far."""
    try:
        rows = read_rows(run_dir / METRICS)
        return [float(row[metric]) for row in rows if row.get(metric)]
    except ValueError:  # not there yet, or half written
        return []


class _Watch:
    """Says, after each validation, whether a run is too bad to go on."""

    def __init__(self, taken: Taken, run_dir: Path, metric: str) -> None:
        self._taken, self._run_dir, self._metric = taken, run_dir, metric
        self._seen = 0

    def __call__(self) -> bool:
        path = self._run_dir / METRICS
        changed = path.stat().st_mtime_ns if path.exists() else 0
        if changed == self._seen:
            return False
        self._seen = changed
        return self._taken.report(_validated(self._run_dir, self._metric))
