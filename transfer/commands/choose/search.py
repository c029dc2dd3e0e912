"""Which rate and weight decay to fine-tune with: a search on one fold, which then is no evidence.

The settings are few, the rule's first. Each trains for a third of the passes; one that is then no worse than the best
so far trains in full. Several processes may share the search.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.choose.budget import Budget
from transfer.commands.choose.candidates import Tried
from transfer.commands.choose.images import Images
from transfer.commands.choose.lpft import final_seconds, fixed_settings, tune_fold
from transfer.commands.choose.search_record import DECAY, RATE, Attempt, Searched, describe_settings
from transfer.config.auto import choose_lpft
from transfer.config.choose_schema import ChooseConfig
from transfer.config.durations import format_duration
from transfer.config.schema import OptimConfig
from transfer.errors import UserError, printable
from transfer.experiments.halving import ETA
from transfer.experiments.search import GRID, Halving, Search, Taken
from transfer.files import expanded
from transfer.resampling import accuracy_interval

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from optuna.trial import BaseTrial

    from datamodules.dataset.loaded import Dataset

FOLDER = "search"
_FOLD = 0  # the fold that chooses
_WAIT_SECONDS = 1.0
_EPOCHS = "trainer.max_epochs"
# Multiples of the rule's rate, and weight decays. AdamW shrinks a weight by their product at each step, so only a large
# decay matters in a short run (ours).
_USUAL = OptimConfig().weight_decay
TRIED = ((1.0, _USUAL), (3.0, _USUAL), (1 / 3, _USUAL), (3.0, 0.1), (9.0, _USUAL), (1.0, 0.1))


class _NoTime(Exception):
    """No time is left for the next run, for a fold that compares, and for the run that may follow."""


@dataclass
class _FirstFold:
    """Runs on the fold that chooses.

    Attributes:
        seconds: what a run in full takes, as far as is known.
        fixed: settings of all runs, as dotted fields.
    """

    tried: Tried
    dataset: Dataset
    images: Images
    fabric: Fabric
    folder: Path
    budget: Budget
    seconds: float
    fixed: Mapping[str, Any]

    def __post_init__(self) -> None:
        rule = {each.field: each.value for each in choose_lpft(int((self.images.folds[0] != _FOLD).sum()))}
        self.rate, self.epochs = float(rule[RATE]), int(rule[_EPOCHS])

    def accuracy(self, settings: Mapping[str, float], epochs: int) -> float:
        """Return the accuracy of a run with these settings, in [0, 1].

        Raises:
            _NoTime: there is too little time, or it took longer than predicted.
            UserError: the run is refused, or fails.
        """
        predicted = self.seconds * epochs / self.epochs
        left = self.budget.left - self.seconds - final_seconds(self.seconds, self.dataset, self.images)
        if predicted > left:
            raise _NoTime
        changes = {**self.fixed, **settings, _EPOCHS: epochs}
        where = self.tried.candidate, self.dataset, self.images, _FOLD, self.fabric, self.folder
        started = time.perf_counter()
        logits = tune_fold(*where, left, changes)
        if logits is None:
            raise _NoTime
        took = time.perf_counter() - started
        self.seconds = took if epochs == self.epochs else max(self.seconds, took)
        mine = self.images.folds[0] == _FOLD
        groups = None if self.images.groups is None else self.images.groups[mine]
        metric = self.dataset.metric
        return accuracy_interval(self.images.labels[mine], logits.argmax(1), metric, groups)[0]


def search_settings(
    tried: Tried,
    dataset: Dataset,
    images: Images,
    fabric: Fabric,
    folder: Path,
    budget: Budget,
    own: ChooseConfig,
    expected: float,
) -> Searched | None:
    """Return the best of `own.search` settings on the first fold; None if there was no time to find out the rule's.

    A run is begun only if time is left for a fold that compares and for the run that may follow.

    Args:
        tried: the network.
        dataset: the images.
        images: those that were cross-validated.
        fabric: launched; its device trains.
        folder: the folder of the choice.
        budget: what may be spent.
        own: the fields of the choice.
        expected: seconds that a fold takes.

    Raises:
        UserError: Optuna is missing, or `search_dir` holds another search.
    """
    runs = _FirstFold(tried, dataset, images, fabric, folder, budget, expected, fixed_settings(own))
    search = _open(runs, own)
    print(
        f"searching rate and weight decay on fold {_FOLD + 1}, {own.search} settings, about"
        f" {format_duration(expected / ETA)} for a third of a run",
        flush=True,
    )
    try:
        while _compute(search, runs, own.search):
            pass
    except _NoTime:
        print(f"  the search ends here: too little time for the next run, {budget}", flush=True)
    return _conclude(search, runs)


def _open(runs: _FirstFold, own: ChooseConfig) -> Search:
    """Return the search, in the folder of the choice unless it is shared."""
    points = [{RATE: float(f"{factor * runs.rate:.2g}"), DECAY: decay} for factor, decay in TRIED]
    rates, decays = (sorted({point[name] for point in points}) for name in (RATE, DECAY))

    def suggest(trial: BaseTrial) -> dict[str, float]:
        return {RATE: trial.suggest_categorical(RATE, rates), DECAY: trial.suggest_categorical(DECAY, decays)}

    plan = {
        "network": str(runs.tried.candidate),
        "data": dict(runs.dataset.fingerprint),
        "folds": runs.images.num_folds,
        "epochs": runs.epochs,
        "draw": runs.tried.candidate.config.seed,
        "metric": runs.dataset.metric,
        "fixed": dict(runs.fixed),
    }
    shared = None if own.search_dir is None else expanded(own.search_dir)
    return Search(shared or runs.folder / FOLDER, suggest, GRID, points=points, halving=Halving(1, ETA), plan=plan)


def _compute(search: Search, runs: _FirstFold, most: int) -> bool:
    """Compute the next trial, or wait for those of other processes; return whether there may be another.

    Raises:
        _NoTime: see `_FirstFold.accuracy`; the trial is left to others.
    """
    taken = search.take(most)
    if taken is None:
        if all(one.state != "not finished" for one in search.ended()):
            return False
        if runs.budget.left < runs.seconds:
            raise _NoTime
        time.sleep(_WAIT_SECONDS)
        return True
    try:
        _train(search, taken, runs)
    except UserError as error:
        search.fail(taken, str(error).partition("\n")[0], because_of_settings=True)
        print(f"  {describe_settings(taken.settings)}: failed: {printable(str(error))}", flush=True)
    finally:
        taken.release()
    return True


def _train(search: Search, taken: Taken, runs: _FirstFold) -> None:
    """Train with the settings of a trial for a third of the passes, and in full if that was not worse than others."""
    name = describe_settings(taken.settings)
    if not taken.is_begun:
        early = runs.accuracy(taken.settings, max(1, round(runs.epochs / ETA)))
        if taken.report([early]):
            search.stop(taken)
            print(f"  {name}: {early:.1%} after a third of the passes, stopped", flush=True)
            return
    value = runs.accuracy(taken.settings, runs.epochs)
    search.finish(taken, value)
    print(f"  {name}: {value:.1%}", flush=True)


def _conclude(search: Search, runs: _FirstFold) -> Searched | None:
    ended = search.ended()
    if not any(one.number == 0 and one.value is not None for one in ended):
        return None
    best = ended[0]
    attempts = [Attempt(one.settings[RATE], one.settings[DECAY], one.state, one.value) for one in ended if one.settings]
    num_images = int((runs.images.folds[0] == _FOLD).sum())
    return Searched(num_images, attempts, {} if best.number == 0 else best.settings)
