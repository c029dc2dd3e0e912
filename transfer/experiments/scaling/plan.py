"""What is planned: study.json holds the trials of a study, their runs, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from transfer.errors import DamagedFile, MissingData, unknown_name
from transfer.experiments.jobs import check_same_plan
from transfer.experiments.records import FileName
from transfer.files import read_object, write_json
from transfer.records import checked

STUDY, RUNS = "study.json", "runs"
# Options that say where and how runs compute, not what: a later call may give others.
FREE_OPTIONS = ("data_root", "logger")
# Options and facts without which no study is run or reported, and those that each kind adds.
_NEEDED = {"baseline", "dataset", "seeds", "steps", "image_size", "threads", "train_images", "val_images"}
_NEEDED |= {"num_classes", "baseline_macs"}
_NEEDED_BY_KIND = {
    "search": {"equal", "budget_steps"},
    "sweep": {"figure", "points"},
    "evolve": {"target_macs", "exponent", "networks", "population"},
}


@dataclass(frozen=True)
class Trial:
    """A network that is trained once with each seed.

    Attributes:
        name: short name for files and tables.
        backbone: name of the backbone, as in finetune.
        values: coefficients that the network was made from.
        image_size: side of the input in pixels.
        num_macs: multiply-adds for one image.
        num_parameters: parameters with the classifier.
    """

    name: FileName
    backbone: str
    values: Mapping[str, float]
    image_size: PositiveInt
    num_macs: PositiveInt
    num_parameters: PositiveInt


@dataclass(frozen=True)
class TrialRun:
    """The training of a trial with one seed.

    Attributes:
        id: name of its folder and files below `runs`.
        trial: name of the trial.
        seed: seed of the run.
        steps: optimizer steps.
        round: number of the round in which it was planned, from 0.
    """

    id: FileName
    trial: str
    seed: NonNegativeInt
    steps: PositiveInt
    round: NonNegativeInt


@dataclass(frozen=True)
class Study:
    """What study.json holds. Trials and runs may be added while a study runs; nothing else changes.

    Attributes:
        kind: the command of `scale` that made it.
        options: the user's options, in JSON's types; `dataset` and those in `FREE_OPTIONS` go into each run.
        settings: dotted fields of every run.
        facts: what is known about the data, and what else the report needs.
        trials: the networks.
        runs: their runs, in the order in which they were planned.
    """

    kind: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    runs: tuple[TrialRun, ...] = ()

    @property
    def on_cpu(self) -> bool:
        """Whether the runs leave GPUs alone."""
        return self.settings.get("trainer.accelerator") == "cpu"

    def trial(self, name: str) -> Trial:
        """Return the trial with this name."""
        return next(trial for trial in self.trials if trial.name == name)

    def run(self, name: str) -> TrialRun:
        """Return the run with this id.

        Raises:
            UserError: there is none; the text names the nearest.
        """
        for run in self.runs:
            if run.id == name:
                return run
        raise unknown_name("run", name, [run.id for run in self.runs])

    def rounds(self) -> list[list[TrialRun]]:
        """Return the runs of each round, in the order in which they were planned."""
        last = max((run.round for run in self.runs), default=-1)
        return [[run for run in self.runs if run.round == number] for number in range(last + 1)]

    def extended(self, runs: Sequence[TrialRun], trials: Sequence[Trial] = ()) -> Study:
        """Return the study with further runs, and further trials that they belong to."""
        return replace(self, trials=(*self.trials, *trials), runs=(*self.runs, *runs))


def is_study(folder: Path) -> bool:
    """Return whether a study was planned in a folder."""
    return (folder / STUDY).is_file()


def read_study(folder: Path) -> Study:
    """Read the study that was planned in a folder.

    Raises:
        MissingData: none was.
        DamagedFile: the plan cannot be read.
    """
    if not is_study(folder):
        raise MissingData(
            f"{folder} is no study (it has no {STUDY}): efficientnet-transfer scale search, sweep or evolve plans one"
        )
    path = folder / STUDY
    content = read_object(path)
    if isinstance(runs := content.get("runs"), list):  # earlier versions wrote `rung`
        content["runs"] = [{"round": run.get("rung"), **run} if isinstance(run, dict) else run for run in runs]
    study = checked(content, Study, path)
    if study.kind not in _NEEDED_BY_KIND:
        raise DamagedFile(f"{path}: damaged: no kind of study {study.kind!r} (there are: {', '.join(_NEEDED_BY_KIND)})")
    known, read = {trial.name for trial in study.trials}, {*study.options} | {*study.facts}
    if unknown := sorted({run.trial for run in study.runs} - known):
        raise DamagedFile(f"{path}: damaged: no trial {unknown[0]!r}, of which there is a run")
    if missing := sorted((_NEEDED | _NEEDED_BY_KIND[study.kind]) - read):
        raise DamagedFile(f"{path}: damaged: no {missing[0]!r} in its options and facts")
    return study


def write_study(folder: Path, study: Study) -> None:
    """Write study.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STUDY, asdict(study))


def check_unchanged(study: Study, planned: Study, folder: Path) -> None:
    """Compare what the user asks for now with what a study was planned with.

    Raises:
        UserError: runs would compute something else; the text says what differs.
    """
    before, after = ({**s.options, **s.settings} for s in (study, planned))
    names = [name for name in {**before, **after} if name not in FREE_OPTIONS]
    check_same_plan(folder, before, after, names)


def run_configuration(study: Study, run: TrialRun) -> dict[str, Any]:
    """Return the dotted fields of a run that differ from the defaults. Val is read, test is not."""
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
