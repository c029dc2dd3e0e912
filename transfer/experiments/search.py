"""A search among settings: Optuna's trials, in a journal that processes on several machines share.

A trial is computed by the process that holds its lock. One whose process has died goes on where it stopped, in the
process that takes it next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.errors import BadValue, DamagedFile, MissingData
from transfer.experiments.jobs import check_same_plan
from transfer.experiments.locks import JobIsTaken, locked

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import BaseTrial, FrozenTrial

JOURNAL, _LOCKS = "journal.log", "locks"
_PLAN, _RETRIED, _REASON = "plan", "retry_of", "reason"  # attributes of a study, and of its trials
# How the next settings are found: in the given order, at random, or by the results so far.
GRID, RANDOM, BAYES = METHODS = "grid", "random", "bayes"

Suggest = Callable[["BaseTrial"], dict[str, Any]]


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving: which trials are stopped early.

    Attributes:
        first: step after which trials are compared for the first time; then after `eta` times as many, and so on.
        eta: of the trials that came as far, the best 1 / `eta` go on.
    """

    first: int
    eta: int


@dataclass
class Taken:
    """A trial that this process computes.

    Attributes:
        trial: Optuna's.
        settings: what is tried.
        lock: file descriptor of its lock, for the processes that compute it.
        is_hopeless: whether it is too bad to go on.
    """

    trial: Trial
    settings: dict[str, Any]
    lock: int
    _held: ExitStack
    _reported: int = 0
    is_hopeless: bool = False

    @property
    def number(self) -> int:
        """The number of the trial, from 0."""
        return self.trial.number

    @property
    def is_begun(self) -> bool:
        """Whether a value was reported, by whoever took it before."""
        return self._reported > 0

    def report(self, values: Sequence[float]) -> bool:
        """Report the values so far, the first after step 1, and return whether they are too bad to go on."""
        for step in range(self._reported + 1, len(values) + 1):
            self.trial.report(values[step - 1], step)
            self._reported = step
            self.is_hopeless = self.is_hopeless or self.trial.should_prune()
        return self.is_hopeless

    def release(self) -> None:
        """Leave the trial to whoever takes it next, unless it has ended."""
        self._held.close()


@dataclass(frozen=True)
class Ended:
    """What became of a trial.

    Attributes:
        number: of the trial, from 0.
        settings: what was tried.
        state: `done`, `stopped early`, `failed`, or `not finished`, which another process computes or goes on with.
        value: what it reached, if it is done.
        reason: why it failed.
    """

    number: int
    settings: dict[str, Any]
    state: str
    value: float | None
    reason: str


@dataclass
class Search:
    """The trials of a folder.

    Attributes:
        folder: gets the journal and the locks.
        suggest: returns the settings of a trial.
        method: one of `METHODS`.
        maximize: whether higher values are better.
        seed: it and the number of a trial determine its settings; by `bayes`, the results so far do, too.
        points: parameters of the first trials, by their names in the journal; of all trials of a grid.
        halving: which trials are stopped early; None stops none.
        plan: what must be equal wherever the folder is used.

    Raises:
        MissingData: Optuna is not installed.
        DamagedFile: the journal cannot be read.
        BadValue: the folder holds another search, or something else.
    """

    folder: Path
    suggest: Suggest
    method: str = RANDOM
    maximize: bool = True
    seed: int = 0
    points: Sequence[Mapping[str, Any]] = ()
    halving: Halving | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        load_optuna()
        found = {entry.name for entry in self.folder.iterdir()} if self.folder.is_dir() else set()
        if found - {_LOCKS} and JOURNAL not in found:
            raise BadValue(f"{self.folder} is not empty, and no search began there (no {JOURNAL}): choose a new folder")
        with self._alone():
            self._study = self._open()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock under which trials are taken."""
        with locked(self.folder / _LOCKS / "search", wait=True):
            yield

    def _open(self) -> Study:
        """Return the study of the journal, a new one if there is none.

        Raises:
            DamagedFile: the journal cannot be read.
            BadValue: it is another search's.
        """
        optuna, path = load_optuna(), self.folder / JOURNAL
        try:
            storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
            study: Study = optuna.create_study(
                storage=storage,
                study_name="search",
                direction="maximize" if self.maximize else "minimize",
                pruner=_build_pruner(self.halving),
                load_if_exists=True,
            )
            trials = study.get_trials(deepcopy=False)
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # whatever a line of it says
            raise DamagedFile(f"{path}: damaged: {error}; search anew in another folder") from None
        plan = {**self.plan, "method": self.method, "maximize": self.maximize, "seed": self.seed}
        plan = json.loads(json.dumps(plan))  # as it comes back
        if not trials:
            study.set_user_attr(_PLAN, plan)
        check_same_plan(self.folder, study.user_attrs.get(_PLAN, {}), plan, plan)
        return study

    def take(self, most: int) -> Taken | None:
        """Return a trial to compute: one whose process has died, or else a new one; None if there is none to begin.

        Args:
            most: trials in all, those of other processes among them.
        """
        from optuna import Trial
        from optuna.trial import TrialState

        with self._alone():
            trials = self._study.get_trials(deepcopy=False)
            for number in [each.number for each in trials if each.state == TrialState.RUNNING]:
                if (held := self._try_lock(number)) is None:
                    continue
                trial = self._study.get_trials(deepcopy=False)[number]
                if trial.state == TrialState.RUNNING:  # not ended just before its lock was free
                    begun = Trial(self._study, trial._trial_id)
                    return Taken(begun, self.suggest(begun), *held, trial.last_step or 0)
                held[1].close()
            begun_number = sum(_RETRIED not in each.user_attrs for each in trials)
            if all(each.state != TrialState.WAITING for each in trials):
                if begun_number >= most:
                    return None
                if begun_number < len(self.points):
                    self._study.enqueue_trial(dict(self.points[begun_number]))
            self._study.sampler = _build_sampler(self.method, self.seed, begun_number)
            new = self._study.ask()
            settings = self.suggest(new)
            held = self._try_lock(new.number)
            assert held is not None  # nobody knew of it
            return Taken(new, settings, *held)

    def _try_lock(self, number: int) -> tuple[int, ExitStack] | None:
        """Return the descriptor of a trial's lock, and what frees it; None if another process holds it."""
        with ExitStack() as stack:
            try:
                lock = stack.enter_context(locked(self.folder / _LOCKS / str(number)))
            except JobIsTaken:
                return None
            return lock, stack.pop_all()

    def finish(self, taken: Taken, value: float) -> None:
        """Write down what a trial reached."""
        self._study.tell(taken.trial, value)
        taken.release()

    def stop(self, taken: Taken) -> None:
        """Write down that a trial was stopped early, as too bad to go on."""
        self._end(taken, "PRUNED")

    def fail(self, taken: Taken, reason: str, because_of_settings: bool = False) -> None:
        """Write down that a trial failed; `bayes` avoids its settings only if they are to blame."""
        taken.trial.set_user_attr(_REASON, reason)
        self._end(taken, "PRUNED" if because_of_settings else "FAIL")

    def _end(self, taken: Taken, state: str) -> None:
        from optuna.trial import TrialState

        self._study.tell(taken.trial, state=TrialState[state])
        taken.release()

    def retry_failed(self) -> None:
        """Put the settings of trials that failed in line again, as trials of their own."""
        with self._alone():
            for trial in self._lasting():
                if trial.state.is_finished() and _REASON in trial.user_attrs:
                    self._study.enqueue_trial(trial.params, {_RETRIED: trial.number})

    def _lasting(self) -> list[FrozenTrial]:
        """Return the trials but those that were put in line again."""
        trials = self._study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get(_RETRIED) for trial in trials}
        return [trial for trial in trials if trial.number not in retried]

    def ended(self) -> list[Ended]:
        """Return what became of each trial, the best first, those without a value last."""
        sign = -1 if self.maximize else 1

        def state(trial: FrozenTrial) -> str:
            pruned = "failed" if _REASON in trial.user_attrs else "stopped early"
            return {"COMPLETE": "done", "FAIL": "failed", "PRUNED": pruned}.get(trial.state.name, "not finished")

        found = [
            Ended(
                number=trial.number,
                settings=self.suggest(trial) if trial.state.is_finished() else {},
                state=state(trial),
                value=trial.value if trial.state.name == "COMPLETE" else None,
                reason=trial.user_attrs.get(_REASON, ""),
            )
            for trial in self._lasting()
        ]
        return sorted(found, key=lambda one: (one.value is None, sign * (one.value or 0), one.number))


def load_optuna() -> Any:
    """Return the module of Optuna, which then says warnings alone.

    Raises:
        MissingData: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingData(f"searches need Optuna: {error}; run: pip install 'efficientnet-transfer[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _build_pruner(halving: Halving | None) -> Any:
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    if halving is None:
        return NopPruner()
    return SuccessiveHalvingPruner(min_resource=halving.first, reduction_factor=halving.eta)


def _build_sampler(method: str, seed: int, number: int) -> Any:
    """Return what draws the settings of a trial: from a stream of its own, whoever computes it, and after a kill."""
    import numpy as np
    from optuna.samplers import RandomSampler, TPESampler

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return TPESampler(seed=own) if method == BAYES else RandomSampler(seed=own)
