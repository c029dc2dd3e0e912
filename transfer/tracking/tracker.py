"""What every tracker is told of a run, and when."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transfer.errors import MissingData
from transfer.lightning import pl
from transfer.run_files import BEST, CALIBRATION, CONFIG, HELD_OUT, PREDICTIONS, REPORT, RESULTS
from transfer.runs.results import Results
from transfer.tracking.mistakes import Confusion, Mistake

End = Literal["finished", "failed", "stopped"]
MODEL_FILES = (CONFIG, BEST, RESULTS, CALIBRATION, HELD_OUT, PREDICTIONS)


@dataclass(frozen=True)
class Facts:
    """What is known of a run when it starts.

    Attributes:
        run_dir: its folder.
        name: what it is called.
        group: the runs that it belongs to; None if it is alone.
        tags: what it is filtered by, such as `dataset` and `backbone`.
        settings: its whole configuration with everything resolved, nested, of plain types.
        log_model: whether the trained network is kept there, too.
        log_photos: whether photos are.
    """

    run_dir: Path
    name: str
    group: str | None
    tags: Mapping[str, str]
    settings: Mapping[str, Any]
    log_model: bool = False
    log_photos: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        results: its results.
        confusions: how often each class was taken for each, the most frequent first.
        mistakes: the images that it was most wrong about, the worst first.
        split: where these were found: test if all of it was read, else val.
    """

    results: Results
    confusions: Sequence[Confusion] = ()
    mistakes: Sequence[Mistake] = ()
    split: str = "test"


class Tracker:
    """Follows a run; this one nowhere but where its loggers do.

    Attributes:
        loggers: what Lightning logs to while the run trains.

    Args:
        loggers: see there.
        failures: exceptions that say that a service cannot be reached or refuses something.
    """

    def __init__(self, loggers: Sequence[pl.loggers.Logger] = (), failures: tuple[type[Exception], ...] = ()) -> None:
        self.loggers = list(loggers)
        self._failures: tuple[type[Exception], ...] = (OSError, *failures)

    def show_best(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics on val of the best validation so far, and the step at which this became known."""

    def conclude(self, outcome: Outcome) -> None:
        """Log what came of the run; of what cannot be logged, warn: the run's folder has it anyway."""
        try:
            self._log_outcome(outcome)
        except self._failures as error:
            warnings.warn(f"not all of the run could be logged: {_one_line(error)}", stacklevel=2)

    def _log_outcome(self, outcome: Outcome) -> None:
        """Log the metrics on test at the last step: they belong to the run's end."""
        results = outcome.results
        tested = {split: metrics for split, metrics in results.metrics.items() if split == "test"}
        self._log_metrics(flat_metrics(tested), last_step(results))

    def _log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for logger in self.loggers if metrics else ():
            logger.log_metrics(dict(metrics), step)
            logger.save()

    def close(self, end: End) -> None:
        """Let go of the run, which ended in this way; a service that does not hear of it is warned of."""
        try:
            self._close(end)
        except self._failures as error:
            warnings.warn(f"the end of the run could not be logged: {_one_line(error)}", stacklevel=2)

    def _close(self, end: End) -> None:
        """Tell the service how the run ended."""


def flat_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return metrics by `<split>/<name>`."""
    return {f"{split}/{name}": value for split, each in metrics.items() for name, value in each.items()}


def last_step(results: Results) -> int:
    """Return the number of the last step; Lightning counts from 0."""
    return (results.steps or 1) - 1


def speed(results: Results) -> dict[str, float]:
    """Return what the run took, as far as it was measured."""
    names = ("steps", "lr", "train_seconds", "wall_seconds", "images_per_second", "peak_memory_bytes", "test_reads")
    return {name: value for name in names if (value := getattr(results, name)) is not None}


def model_files(run_dir: Path) -> list[Path]:
    """Return the files with which a folder is this run to `load_run` and all commands."""
    return [run_dir / name for name in MODEL_FILES if (run_dir / name).exists()]


def report_files(facts: Facts) -> list[Path]:
    """Return the run's report, which shows photos, if there is one and photos may leave the run's folder."""
    return [facts.run_dir / REPORT] if facts.log_photos and (facts.run_dir / REPORT).exists() else []


def refusal(logger: str, error: Exception, advice: str = "") -> MissingData:
    """Return what the user reads of a service that cannot be reached or refuses the run.

    Args:
        logger: the tracker's name.
        error: what the service or its package said.
        advice: what helps, in brackets.
    """
    return MissingData(f"`logger`={logger}: {' '.join(str(error).split())}{advice}")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
