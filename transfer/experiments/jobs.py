"""A job: one outcome to come, planned once, computed by the worker that locks it first, resumed after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.errors import BadValue, DamagedFile, MissingData, UserError
from transfer.experiments.child_run import RunFailed, Worker
from transfer.experiments.locks import JobIsTaken, locked
from transfer.experiments.processes import Children
from transfer.files import read_object, write_json
from transfer.records import checked

# Exit statuses of the command that computes one job: the job failed; another process computes it (EX_TEMPFAIL).
FAILED, TAKEN = 1, 75
# Content of an outcome file; its entry `error` is None unless the job failed.
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One outcome to come, which any worker may compute.

    Attributes:
        id: name that is unique in the experiment.
        outcome_file: JSON file that exists as soon as the job is done or has failed.
        lock_file: file that the process which computes the job holds locked.
        compute: returns the outcome, from wherever an earlier attempt ended; raises `RunFailed`.
        failure: entries of a failed job's outcome besides `error`.
        kind: dataclass or typed dictionary that an outcome is checked against.
    """

    id: str
    outcome_file: Path
    lock_file: Path
    compute: Callable[[Worker], Outcome]
    failure: Mapping[str, Any]
    kind: Any

    def read(self) -> Outcome | None:
        """Return the outcome, or None while there is none; a damaged one is that of a failed job."""
        if not self.outcome_file.exists():
            return None
        try:
            outcome = read_object(self.outcome_file)
            checked(outcome, self.kind, self.outcome_file)
        except (DamagedFile, MissingData) as error:
            return {**self.failure, "error": str(error)}
        return outcome

    def is_pending(self, retry_failed: bool = False) -> bool:
        """Return whether the job has yet to be computed.

        Args:
            retry_failed: whether a job that failed counts as pending.
        """
        outcome = self.read()
        return outcome is None or (retry_failed and has_failed(outcome))

    def complete(self, folder: Path, go_on: str, retry_failed: bool = False, fork: bool = False) -> Outcome:
        """Compute the job unless it has an outcome, write the outcome and return it.

        Args:
            folder: folder of the experiment.
            go_on: command that the user types after an interruption.
            retry_failed: whether to compute a failed job again.
            fork: see `Children`.

        Raises:
            JobIsTaken: another process computes the job.
            Interrupted: Ctrl-C or SIGTERM; what has been computed is kept.
        """
        with locked(self.lock_file) as lock, Children(fork) as children:
            outcome = self.read()
            if outcome is None or (retry_failed and has_failed(outcome)):
                try:
                    outcome = self.compute(Worker(folder, children, lock, go_on))
                except (RunFailed, UserError) as failure:
                    outcome = {**self.failure, "error": str(failure)}
                write_json(self.outcome_file, outcome)
            return outcome

    def exit_status(self, folder: Path, go_on: str, retry_failed: bool, fork: bool) -> int:
        """Complete the job and return the exit status of the command that does so: 0, `FAILED` or `TAKEN`.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; what has been computed is kept.
        """
        try:
            outcome = self.complete(folder, go_on, retry_failed, fork)
        except JobIsTaken:
            return TAKEN
        return FAILED if has_failed(outcome) else 0


def has_failed(outcome: Outcome) -> bool:
    """Return whether an outcome is that of a failed job."""
    return outcome.get("error") is not None


def pending_jobs(jobs: Iterable[Job], retry_failed: bool = False) -> list[Job]:
    """Return the jobs that have yet to be computed, in their order.

    Args:
        retry_failed: whether jobs that failed are among them.
    """
    return [job for job in jobs if job.is_pending(retry_failed)]


def describe_progress(jobs: Iterable[Job], units: str) -> tuple[int, int, list[str]]:
    """Return how many jobs are done, how many have failed, and lines that say so and why.

    Args:
        units: what the jobs are called, in the plural.
    """
    outcomes = {job.id: job.read() for job in jobs}
    reasons = {name: outcome["error"] for name, outcome in outcomes.items() if outcome and has_failed(outcome)}
    done = sum(outcome is not None for outcome in outcomes.values()) - len(reasons)
    failed = f", {len(reasons)} failed" if reasons else ""
    lines = [f"{done} of {len(outcomes)} {units} are done{failed}"]
    lines += [f"  {name}: {(reason or 'no reason given').splitlines()[-1]}" for name, reason in reasons.items()]
    return done, len(reasons), lines


def check_same_plan(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any], names: Iterable[str]) -> None:
    """Compare what is asked for now with what was planned in a folder.

    Args:
        folder: folder of the experiment.
        before: fields of the existing plan.
        after: fields of what is asked for.
        names: fields that must be equal.

    Raises:
        BadValue: something else would be computed; the text says what differs.
    """
    pairs = [(name, before.get(name), after.get(name)) for name in names]
    if changed := [f"{name}: {old!r} -> {new!r}" for name, old, new in pairs if old != new]:
        raise BadValue(
            "\n  ".join([f"{folder} was planned otherwise; give a new folder, or the same options:", *changed])
        )
