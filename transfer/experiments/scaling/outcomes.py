"""The runs of a study as jobs, and what came of them."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from transfer.experiments.child_run import RunDiverged, Worker, drop_checkpoints, final_metrics, quoted
from transfer.experiments.jobs import Job
from transfer.experiments.scaling.plan import RUNS, Study, TrialRun, run_configuration


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        score: the quoted metric on val at the end of the run, in [0, 1]; None if the run failed.
        metric: name of the metric that the literature quotes for the dataset.
        metrics: all metrics on val at the end of the run.
        train_seconds: seconds of training; of a resumed run, those of its last part.
        processor_seconds: processor time of the whole process with its imports; of a resumed run, its last part's.
        hardware, versions, git_commit: see `transfer.environment.environment`.
        error: end of what a failed run printed; None if it did not fail.
        diverged: whether it failed because its loss was no longer finite, which it would be again.
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
    diverged: bool = False

    @property
    def failed(self) -> bool:
        """Whether the run ended without results."""
        return self.error is not None


def _whole(outcome: Outcome) -> Outcome:
    """Return the outcome of a run; one that did not fail has a share as its score, and says where it was computed.

    Raises:
        ValueError: it does not.
    """
    if not outcome.failed:
        if outcome.score is None or not 0 <= outcome.score <= 1:
            raise ValueError("a run that has not failed needs a score from 0 to 1")
        if missing := {"gpus", "cores", "cpu"} - outcome.hardware.keys():
            raise ValueError(f"its hardware lacks {', '.join(sorted(missing))}")
    return outcome


WholeOutcome = Annotated[Outcome, AfterValidator(_whole)]


def run_job(folder: Path, study: Study, run: TrialRun) -> Job:
    """Return the job that brings a run of a study to its outcome. Its checkpoints are not kept."""
    beside = folder / RUNS
    return Job(
        id=run.id,
        outcome_file=beside / f"{run.id}.json",
        lock_file=beside / f"{run.id}.lock",
        compute=partial(_compute, study, run),
        failure=vars(Outcome()),
        kind=WholeOutcome,
    )


def study_jobs(folder: Path, study: Study) -> list[Job]:
    """Return the jobs of all planned runs, in the order of the plan."""
    return [run_job(folder, study, run) for run in study.runs]


def read_outcomes(folder: Path, study: Study) -> dict[str, Outcome]:
    """Return what came of the runs that have an outcome, by their ids."""
    found = ((job.id, job.read()) for job in study_jobs(folder, study))
    return {name: Outcome(**content) for name, content in found if content is not None}


def _compute(study: Study, run: TrialRun, worker: Worker) -> dict[str, Any]:
    before = _processor_seconds()
    try:
        results = worker.finetune(f"{RUNS}/{run.id}", run_configuration(study, run))
    except RunDiverged as error:
        return vars(Outcome(error=str(error), diverged=True))
    drop_checkpoints(results.run_dir)
    metrics = final_metrics(results.run_dir)
    score = quoted(metrics, results)
    print(f"{run.id}: val {results.quoted_metric} {score:.4f}", flush=True)
    outcome = Outcome(
        score=score,
        metric=results.quoted_metric,
        metrics=metrics,
        train_seconds=results.train_seconds or 0.0,
        processor_seconds=round(_processor_seconds() - before, 2),
        hardware=results.environment["hardware"],
        versions=results.environment["versions"],
        git_commit=results.environment["git_commit"],
    )
    return vars(outcome)


def _processor_seconds() -> float:
    """Return the processor time of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
