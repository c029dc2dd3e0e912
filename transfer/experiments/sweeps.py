"""W&B's sweep files: read, written, and what they search, for Optuna."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from transfer.errors import BadValue, DamagedFile, unknown_name
from transfer.experiments.search import GRID, METHODS, Halving
from transfer.files import write_text
from transfer.records import checked
from transfer.yaml_files import read_yaml

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

_KEYS = ("value", "values", "min", "max", "distribution")
# What a range is drawn from, by W&B's names.
_DISTRIBUTIONS: dict[str, Callable[[BaseTrial, str, Any, Any], float]] = {
    "uniform": lambda trial, name, low, high: trial.suggest_float(name, low, high),
    "int_uniform": lambda trial, name, low, high: trial.suggest_int(name, low, high),
    "log_uniform_values": lambda trial, name, low, high: trial.suggest_float(name, low, high, log=True),
}


@dataclass(frozen=True)
class EarlyTermination:
    """Which runs are stopped early, as W&B's agents do it: asynchronous successive halving (arXiv 1810.05934).

    Attributes:
        type: `hyperband`.
        min_iter: validations after which runs are compared for the first time, then after `eta` times as many, ...
        max_iter, s: in its place, validations of a whole run, and how often runs are compared.
        eta: of the runs that came as far, the best 1 / `eta` go on.
    """

    type: str
    min_iter: int | None = None
    max_iter: int | None = None
    s: int | None = None
    eta: int = 3

    def halving(self) -> Halving:
        """Return when runs are compared, and how many of them go on.

        Raises:
            BadValue: that is not said, or cannot be.
        """
        if self.type != "hyperband":
            raise unknown_name("early_terminate.type", self.type, ("hyperband",))
        if self.eta < 2:
            raise BadValue(f"early_terminate.eta is {self.eta} (allowed: at least 2)")
        first = self.min_iter
        if first is None and self.max_iter is not None and self.s is not None:
            first = self.max_iter // self.eta**self.s
        if first is None or first < 1:
            raise BadValue("early_terminate needs min_iter, or max_iter and s, that come to at least 1")
        return Halving(first, self.eta)


@dataclass(frozen=True)
class Sweep:
    """The parts of a sweep file that matter here.

    Attributes:
        program: script or module that each run starts.
        method: one of `METHODS`; `bayes` is Optuna's tree-structured Parzen estimator.
        parameters: for each name `value`, `values`, or a distribution with its range.
        command: W&B's template of the command line.
        metric: `name` and `goal` of what is optimized.
        run_cap: most runs.
        early_terminate: which runs are stopped early; None stops none.
    """

    program: str
    method: str
    parameters: Mapping[str, Mapping[str, Any]]
    command: tuple[str, ...] = ("${env}", "${interpreter}", "${program}", "${args}")
    metric: Mapping[str, str] = field(default_factory=dict)
    run_cap: int | None = None
    early_terminate: EarlyTermination | None = None

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Return a value for each parameter, as the trial has it or its study draws it."""
        return {name: _suggest(trial, name, parameter) for name, parameter in self.parameters.items()}

    def points(self) -> list[dict[str, Any]]:
        """Return the points of a grid, in the order of the file, as the journal writes them; none of other methods."""
        if self.method != GRID:
            return []
        choices = {name: _texts(one["values"]) for name, one in self.parameters.items() if "values" in one}
        return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]

    def num_runs(self, count: int | None) -> int:
        """Return how many runs there are: `count`, or the file's run_cap, or all of a grid.

        Raises:
            BadValue: none of them says.
        """
        asked = self.run_cap if count is None else count
        if self.method == GRID:
            points = len(self.points())
            return points if asked is None else min(asked, points)
        if asked is None:
            raise BadValue(f"method {self.method}: the file has no run_cap; say how many runs: `count`=N")
        return asked

    def named(self, *names: str) -> list[tuple[str, Any]]:
        """Return each of these parameters with each of its values."""
        given = [(name, self.parameters[name]) for name in names if name in self.parameters]
        return [(name, value) for name, one in given for value in one.get("values", [one.get("value")])]

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """Return the words after the program's name, as an agent makes them."""
        words = self.command[self.command.index("${program}") + 1 :]
        flags = [f"--{name}={value}" for name, value in values.items()]
        return [part for word in words for part in (flags if word == "${args}" else [word])]

    def finetune_arguments(self, values: Mapping[str, Any]) -> list[str]:
        """Return the arguments of finetune that an agent would give it.

        Raises:
            UserError: the sweep runs something else.
        """
        words = self.arguments(values)
        if Path(self.program).name == "finetune.py":
            return words
        if self.program == "transfer" and words[:1] == ["finetune"]:
            return words[1:]
        raise BadValue(
            f"the sweep runs {' '.join([self.program, *words[:1]])}; only sweeps of finetune run here"
            " (cells of a table: efficientnet-transfer table run)"
        )


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        MissingData: no such file.
        DamagedFile: it is not a sweep.
        BadValue: it needs what only W&B's own agents can do.
    """
    content = read_yaml(path).content
    if not content.keys() >= {"program", "method", "parameters"}:
        raise DamagedFile(f"{path}: not a sweep file (it needs program, method and parameters)")
    if content["method"] not in METHODS:
        raise unknown_name(f"method of {path}", str(content["method"]), METHODS)
    sweep = checked(content, Sweep, path)
    for needed in ("${program}", "${args}"):
        if needed not in sweep.command:
            raise BadValue(f"{path}: its command has no {needed}")
    for name, parameter in sweep.parameters.items():
        _check(name, parameter, sweep.method)
    if sweep.early_terminate is not None:
        sweep.early_terminate.halving()
    return sweep


def save_sweep(sweep: Sweep, path: Path) -> None:
    """Write a sweep so that W&B can read it."""
    content: dict[str, Any] = {
        "program": sweep.program,
        "method": sweep.method,
        "command": list(sweep.command),
        "parameters": dict(sweep.parameters),
    }
    write_text(path, yaml.safe_dump(content, sort_keys=False))


def _check(name: str, parameter: Mapping[str, Any], method: str) -> None:
    """Check that a parameter can be drawn.

    Raises:
        BadValue: it cannot.
    """
    if unknown := [key for key in parameter if key not in _KEYS]:
        raise unknown_name(f"key of parameter {name}", unknown[0], _KEYS)
    if "value" in parameter or (isinstance(parameter.get("values"), list) and parameter["values"]):
        return
    if method == GRID:
        raise BadValue(f"parameter {name}: a grid needs value or values")
    low, high = parameter.get("min"), parameter.get("max")
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or low > high:
        raise BadValue(f"parameter {name}: give value, values, or min and max: numbers, the smaller one first")
    if (kind := _distribution(parameter)) not in _DISTRIBUTIONS:
        raise unknown_name(f"distribution of {name}", kind, _DISTRIBUTIONS)
    if kind == "log_uniform_values" and low <= 0:
        raise BadValue(f"parameter {name}: min is {low} (allowed with log_uniform_values: above 0)")


def _distribution(parameter: Mapping[str, Any]) -> str:
    integers = isinstance(parameter["min"], int) and isinstance(parameter["max"], int)
    return str(parameter.get("distribution", "int_uniform" if integers else "uniform"))


def _suggest(trial: BaseTrial, name: str, parameter: Mapping[str, Any]) -> Any:
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        texts = _texts(parameter["values"])
        return parameter["values"][texts.index(trial.suggest_categorical(name, texts))]
    return _DISTRIBUTIONS[_distribution(parameter)](trial, name, parameter["min"], parameter["max"])


def _texts(values: Sequence[Any]) -> list[str]:
    """Return choices as a journal can hold them, which knows no dictionaries."""
    return [json.dumps(value) for value in values]
