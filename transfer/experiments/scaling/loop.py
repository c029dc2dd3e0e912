"""A study from its plan to its last outcome: computes what is planned, asks for more, until there is no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from transfer.experiments.launchers import LAUNCHERS, Launch
from transfer.experiments.locks import locked
from transfer.experiments.scaling.one_run import Outcome, lock_path, read_outcome, unfinished
from transfer.experiments.scaling.plan import Study, write_study

# The study with the runs to come, and the trials they belong to, when all of its runs have these outcomes; the study as
# it is when it is finished. It depends on nothing else, so that a killed study goes on as if it had not been.
PlanMore = Callable[[Study, Mapping[str, Outcome]], Study]


def conduct(
    folder: Path, study: Study, plan_more: PlanMore, launcher: str, launch: Launch, retry_failed: bool = False
) -> Study:
    """Runs a study until it is finished, a run has failed, or its runs are handed to others; gives it as it then is.

    Args:
        launcher: `local` waits for the runs and goes on with the next round; the others start or write one round.
        launch: what the launcher is told, without ids.
        retry_failed: whether runs that have failed are computed again.

    Raises:
        UserError: see the launchers.
        Interrupted: Ctrl-C or SIGTERM, after what was running has saved what it had.
    """
    while True:
        if pending := unfinished(folder, study.runs, retry_failed):
            LAUNCHERS[launcher](replace(launch, ids=[run.id for run in pending]))
            if launcher != "local":
                return study
            retry_failed = False
            if left := unfinished(folder, study.runs):
                for run in left:  # another process may be at it, of this command started twice, or of one killed
                    with locked(lock_path(folder, run), wait=True):
                        pass
                if unfinished(folder, study.runs) == left:
                    return study
                continue
        outcomes = read_outcomes(folder, study)
        if any(outcome.failed for outcome in outcomes.values()):
            return study
        extended = plan_more(study, outcomes)
        if extended == study:
            return study
        study = extended
        write_study(folder, study)


def read_outcomes(folder: Path, study: Study) -> dict[str, Outcome]:
    """What came of the runs that have an outcome, by their ids."""
    found = ((run.id, read_outcome(folder, run)) for run in study.runs)
    return {name: outcome for name, outcome in found if outcome is not None}
