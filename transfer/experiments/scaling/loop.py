"""A study from its plan to its last outcome: computes what is planned, plans more, until there is no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from transfer.experiments.jobs import pending_jobs
from transfer.experiments.launchers import LAUNCHERS, Launch
from transfer.experiments.locks import locked
from transfer.experiments.scaling.outcomes import Outcome, read_outcomes, study_jobs
from transfer.experiments.scaling.plan import Study, write_study

# Returns the study with the runs to come, and their trials, once all of its runs have these outcomes; a finished study
# is returned as it is. It depends on nothing else, so that a killed study goes on as if it had not been killed.
PlanMore = Callable[[Study, Mapping[str, Outcome]], Study]


def conduct(
    folder: Path, study: Study, plan_more: PlanMore, launcher: str, launch: Launch, retry_failed: bool = False
) -> Study:
    """Run a study until it is finished, until a run has failed and not diverged, or until others have its runs.

    The study is returned as it then is.

    Args:
        folder: folder of the study.
        study: the study with its first runs.
        plan_more: plans further runs.
        launcher: `local` waits for the runs and goes on with the next round; the others start or write one round.
        launch: what the launcher has to know, without ids.
        retry_failed: whether runs that have failed are computed again.

    Raises:
        UserError: see the launchers.
        Interrupted: Ctrl-C or SIGTERM, after the running runs have saved their state.
    """
    while True:
        jobs = study_jobs(folder, study)
        if pending := pending_jobs(jobs, retry_failed):
            LAUNCHERS[launcher](replace(launch, ids=[job.id for job in pending]))
            if launcher != "local":
                return study
            retry_failed = False
            if left := pending_jobs(jobs):
                for job in left:  # another process may compute it: this command, started twice or killed before
                    with locked(job.lock_file, wait=True):
                        pass
                if len(pending_jobs(left)) == len(left):
                    return study
                continue
        outcomes = read_outcomes(folder, study)
        if any(outcome.failed and not outcome.diverged for outcome in outcomes.values()):
            return study  # a network that diverges is the worst; other failures may have been bad luck
        extended = plan_more(study, outcomes)
        if extended == study:
            return study
        study = extended
        write_study(folder, study)
