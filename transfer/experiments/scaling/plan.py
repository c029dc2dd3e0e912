"""What is planned: study.json holds the networks, their runs, and what holds for all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transfer.errors import UserError, unknown_name
from transfer.experiments.locks import check_same_plan
from transfer.files import write_json

STUDY, RUNS = "study.json", "runs"
# Options that say where and how runs compute, not what: a later call may give others.
FREE_OPTIONS = ("data_root", "logger")


@dataclass(frozen=True)
class Trial:
    """A network that is trained, once with each seed.

    Attributes:
        name: short, for files and tables.
        backbone: as of finetune.
        values: the coefficients that it was made from.
        image_size: side of the input in pixels.
        num_macs: multiply-adds for one image.
        num_parameters: with the classifier.
    """

    name: str
    backbone: str
    values: Mapping[str, float]
    image_size: int
    num_macs: int
    num_parameters: int


@dataclass(frozen=True)
class Run:
    """One training of a trial.

    Attributes:
        id: names its folder and files below `runs`.
        trial: its name.
        steps: of the optimizer.
        rung: number of the round in which it was planned, from 0.
    """

    id: str
    trial: str
    seed: int
    steps: int
    rung: int


@dataclass(frozen=True)
class Study:
    """What study.json holds. Trials and runs may be added while a study runs, nothing else changes.

    Attributes:
        kind: the command of scale that made it.
        options: the user's, in JSON's types; those in `FREE_OPTIONS` and `dataset` go into each run.
        settings: dotted fields of every run.
        facts: of the data, and what else the report tells.
    """

    kind: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    runs: tuple[Run, ...] = ()

    def trial(self, name: str) -> Trial:
        """The trial of this name."""
        return next(trial for trial in self.trials if trial.name == name)

    def run(self, name: str) -> Run:
        """The run of this id.

        Raises:
            UserError: there is none; the text names the nearest.
        """
        for run in self.runs:
            if run.id == name:
                return run
        raise unknown_name("run", name, [run.id for run in self.runs])

    def extended(self, runs: Sequence[Run], trials: Sequence[Trial] = ()) -> Study:
        """The study with further runs, and trials that they belong to."""
        return replace(self, trials=(*self.trials, *trials), runs=(*self.runs, *runs))


def is_study(folder: Path) -> bool:
    """Whether a study was planned there."""
    return (folder / STUDY).is_file()


def read_study(folder: Path) -> Study:
    """The study that was planned there.

    Raises:
        UserError: none was.
    """
    if not is_study(folder):
        raise UserError(
            f"{folder} is no study (it has no {STUDY}): efficientnet-transfer scale search, sweep or evolve plans one"
        )
    content = json.loads((folder / STUDY).read_text())
    trials, runs = content.pop("trials"), content.pop("runs")
    return Study(**content, trials=tuple(Trial(**trial) for trial in trials), runs=tuple(Run(**run) for run in runs))


def write_study(folder: Path, study: Study) -> None:
    """Writes study.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STUDY, asdict(study))


def check_unchanged(study: Study, planned: Study, folder: Path) -> None:
    """Compares what the user asks for now with what the study was planned with.

    Raises:
        UserError: runs would compute something else; the text says what differs.
    """
    before, after = ({**s.options, **s.settings} for s in (study, planned))
    names = [name for name in {**before, **after} if name not in FREE_OPTIONS]
    check_same_plan(folder, before, after, names)


def run_configuration(study: Study, run: Run) -> dict[str, Any]:
    """The dotted fields of a run that differ from the defaults. Val is read, test is not."""
    trial = study.trial(run.trial)
    return {
        **study.settings,
        **{name: study.options[name] for name in FREE_OPTIONS if study.options.get(name) is not None},
        "dataset": study.options["dataset"],
        "backbone": trial.backbone,
        "image_size": trial.image_size,
        "seed": run.seed,
        "pretrained": False,
        "trainer.max_epochs": -1,
        "trainer.max_steps": run.steps,
        "trainer.devices": 1,
        "trainer.limit_test_batches": 0,
    }


def rounds(study: Study) -> list[list[Run]]:
    """The runs of each round, in the order in which they were planned."""
    last = max((run.rung for run in study.runs), default=-1)
    return [[run for run in study.runs if run.rung == number] for number in range(last + 1)]
