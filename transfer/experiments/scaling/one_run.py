"""One run of a study: a finetune with its configuration in a file, and what came of it beside its folder."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfer.experiments.child_run import METRICS, RunFailed, drop_checkpoints, final_metrics, finish_run
from transfer.experiments.locks import locked
from transfer.experiments.processes import Children
from transfer.experiments.scaling.plan import RUNS, Run, Study, run_configuration
from transfer.files import write_json


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        score: the metric on val at its end, in [0, 1]; None of a failed run.
        metric: which one: what the literature quotes for the dataset.
        metrics: all of them on val, at its end.
        train_seconds, processor_seconds: of the training, and of the whole process with its imports; those of a resumed
            run are of its last part.
        hardware, versions, git_commit: see `transfer.environment.environment`.
        error: of a failed run: the end of what it printed.
    """

    score: float | None = None
    metric: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    train_seconds: float = 0.0
    processor_seconds: float = 0.0
    hardware: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)
    git_commit: str | None = None
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended without results."""
        return self.error is not None


def read_outcome(folder: Path, run: Run) -> Outcome | None:
    """What came of a run; None as long as nothing has."""
    path = _beside(folder, run, ".json")
    return Outcome(**json.loads(path.read_text())) if path.is_file() else None


def unfinished(folder: Path, runs: Iterable[Run], retry_failed: bool = False) -> list[Run]:
    """The runs that are still to be computed, in their order."""
    outcomes = ((run, read_outcome(folder, run)) for run in runs)
    return [run for run, outcome in outcomes if outcome is None or (retry_failed and outcome.failed)]


def lock_path(folder: Path, run: Run) -> Path:
    """The file that whoever computes the run holds locked."""
    return _beside(folder, run, ".lock")


def compute_run(
    folder: Path, study: Study, run: Run, go_on: str, retry_failed: bool = False, fork: bool = False
) -> Outcome:
    """Brings a run to its outcome, from wherever an earlier attempt ended. Its checkpoints are not kept.

    Args:
        go_on: the user's command after an interruption.
        fork: see `Children`.

    Raises:
        CellIsTaken: another process is at it.
        Interrupted: Ctrl-C or SIGTERM; what has been computed is kept.
    """
    with locked(lock_path(folder, run)) as lock, Children(fork) as children:
        outcome = read_outcome(folder, run)
        if outcome is None or (retry_failed and outcome.failed):
            outcome = _compute(folder, study, run, children, lock, go_on)
            write_json(_beside(folder, run, ".json"), vars(outcome))
    return outcome


def _compute(folder: Path, study: Study, run: Run, children: Children, lock: int, go_on: str) -> Outcome:
    run_dir = folder / RUNS / run.id
    before = _processor_seconds()
    # How W&B shows the runs of a study together, whatever their project.
    names = {"WANDB_RUN_GROUP": folder.resolve().name, "WANDB_NAME": run.id}
    try:
        results = finish_run(folder, f"{RUNS}/{run.id}", run_configuration(study, run), children, lock, go_on, **names)
    except RunFailed as failure:
        return Outcome(error=str(failure))
    drop_checkpoints(run_dir)
    metrics = final_metrics(run_dir / METRICS)
    metric: str = results["quoted_metric"]
    return Outcome(
        score=metrics[metric],
        metric=metric,
        metrics=metrics,
        train_seconds=results["train_seconds"],
        processor_seconds=round(_processor_seconds() - before, 2),
        hardware=results["hardware"],
        versions=results["versions"],
        git_commit=results["git_commit"],
    )


def _processor_seconds() -> float:
    """Of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _beside(folder: Path, run: Run, suffix: str) -> Path:
    return folder / RUNS / f"{run.id}{suffix}"
