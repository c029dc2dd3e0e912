"""W&B's sweep files: read, written, and those of finetune run without W&B."""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from transfer.errors import BadValue, DamagedFile, Interrupted, unknown_name
from transfer.experiments.child_run import ALLOW_USER_CODE, run_command
from transfer.experiments.devices import device_slots
from transfer.experiments.halving import describe_trial
from transfer.experiments.locks import JobIsTaken, locked
from transfer.experiments.processes import Children, last_lines, run_pool
from transfer.files import read_object, write_json, write_text
from transfer.networks.user_code import refuse_user_code
from transfer.records import checked
from transfer.run_files import RESULTS
from transfer.runs.results import read_results
from transfer.yaml_files import read_yaml

METHODS = ("grid", "random", "bayes")
DRAWS = "sweep.json"


@dataclass(frozen=True)
class Sweep:
    """The parts of a sweep file that matter here.

    Attributes:
        program: script or module that each run starts.
        method: one of `METHODS`.
        parameters: for each name `value`, `values`, or a distribution with its range.
        command: W&B's template of the command line.
        metric: `name` and `goal` of what is optimized.
        run_cap: most runs.
    """

    program: str
    method: str
    parameters: Mapping[str, Mapping[str, Any]]
    command: tuple[str, ...] = ("${env}", "${interpreter}", "${program}", "${args}")
    metric: Mapping[str, str] = field(default_factory=dict)
    run_cap: int | None = None

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
    if "early_terminate" in content:
        print(f"{path}: early_terminate needs W&B; here every run goes on to its end", file=sys.stderr)
    sweep = checked(content, Sweep, path)
    for needed in ("${program}", "${args}"):
        if needed not in sweep.command:
            raise BadValue(f"{path}: its command has no {needed}")
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


def draw(sweep: Sweep, count: int | None, seed: int = 0) -> list[dict[str, Any]]:
    """Return the values of each run: every point of a grid, or independent draws from the ranges.

    W&B chooses the next point of `bayes` by the results so far; here it is a random search.

    Args:
        sweep: the sweep file.
        count: most runs; None takes the file's run_cap, or all of a grid.
        seed: seed of the draws.

    Raises:
        UserError: `random` or `bayes` without a count, or an unknown distribution.
    """
    count = sweep.run_cap if count is None else count
    if sweep.method == "grid":
        choices = [_choices(name, parameter) for name, parameter in sweep.parameters.items()]
        runs = [dict(zip(sweep.parameters, values, strict=True)) for values in product(*choices)]
        return runs[:count]
    if count is None:
        raise BadValue(f"method {sweep.method}: the file has no run_cap; say how many runs: `count`=N")
    generator = random.Random(seed)
    return [
        {name: _sample(name, parameter, generator) for name, parameter in sweep.parameters.items()}
        for _ in range(count)
    ]


def _choices(name: str, parameter: Mapping[str, Any]) -> Sequence[Any]:
    if "value" in parameter:
        return [parameter["value"]]
    if isinstance(parameter.get("values"), list):
        return parameter["values"]
    raise BadValue(f"parameter {name}: a grid needs value or values")


def _sample(name: str, parameter: Mapping[str, Any], generator: random.Random) -> Any:
    if "value" in parameter or "values" in parameter:
        return generator.choice(_choices(name, parameter))
    low, high = parameter.get("min"), parameter.get("max")
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or low > high:
        raise BadValue(f"parameter {name}: give value, values, or min and max: numbers, the smaller one first")
    integers = isinstance(low, int) and isinstance(high, int)
    kind = parameter.get("distribution", "int_uniform" if integers else "uniform")
    if kind == "int_uniform":
        return generator.randint(int(low), int(high))
    if kind == "uniform":
        return generator.uniform(low, high)
    if kind == "log_uniform_values":
        if low <= 0:
            raise BadValue(f"parameter {name}: min is {low} (allowed with log_uniform_values: above 0)")
        return math.exp(generator.uniform(math.log(low), math.log(high)))
    raise unknown_name(f"distribution of {name}", str(kind), ("uniform", "int_uniform", "log_uniform_values"))


def run_sweep(
    path: Path,
    folder: Path,
    workers: int | None,
    devices: int,
    count: int | None,
    seed: int,
    gpus: Sequence[str],
    allow_user_code: bool = False,
) -> int:
    """Run the runs of a sweep file as FOLDER/00, 01, ..., print the best and return how many failed.

    Args:
        path: the sweep file.
        folder: folder of the runs; one that exists is continued.
        workers: runs at a time; None takes as many as there are GPUs for, or one without GPUs.
        devices: GPUs of each run.
        count: most runs; None takes all of a grid, or the file's run_cap.
        seed: seed of random draws.
        gpus: GPUs that may be used; without any, this process is forked for each run.
        allow_user_code: whether runs may import a backbone or a head of one's own that the file names.

    Raises:
        UserError: not such a file, or the folder holds another sweep or is in use.
        Interrupted: Ctrl-C or SIGTERM.
    """
    sweep = load_sweep(path)
    draws = draw(sweep, count, seed)
    names = [(name, value) for values in draws for name, value in values.items() if name in ("backbone", "head")]
    refuse_user_code(path, names, allow_user_code)
    allowed = [ALLOW_USER_CODE] if allow_user_code else []
    arguments = [[*sweep.finetune_arguments(values), *allowed] for values in draws]
    if sweep.method == "bayes":
        print(f"without W&B, bayes is a random search over the same ranges: {len(draws)} draws, seed {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / DRAWS).exists() and read_object(folder / DRAWS).get("runs") != draws:
        raise BadValue(f"{folder} holds another sweep, or other draws of this one: give a new `out_dir`")
    os.environ.setdefault("WANDB_MODE", "offline")
    try:
        with locked(folder / "lock") as lock, Children(fork=not gpus) as children:
            write_json(folder / DRAWS, {"sweep": str(path), "method": sweep.method, "runs": draws})

            def tasks() -> Iterator[tuple[str, list[str]]]:
                for index, words in enumerate(arguments):
                    if command := run_command(folder / f"{index:02d}", words):
                        yield f"{index:02d}", command

            slots = device_slots(workers, devices, gpus)
            for name, status in run_pool(tasks(), slots, children, logs=folder, keep_open=lock):
                if status and children.stopped is None:
                    log = folder / f"{name}.log"
                    print(f"{folder / name}: exit status {status}: {last_lines(log, 1)} ({log})", file=sys.stderr)
            if children.stopped is not None:
                go_on = f"efficientnet-transfer table sweep {path} --out_dir {folder}, with the same options"
                raise Interrupted(children.stopped, go_on)
    except JobIsTaken:
        raise BadValue(f"{folder}: another process runs this sweep") from None
    return _print_best(folder, draws, sweep.metric)


def _print_best(folder: Path, draws: Sequence[Mapping[str, Any]], metric: Mapping[str, str]) -> int:
    """Print the best run, and a line for each that has no finite value of the metric; return how many these are."""
    split, _, name = metric.get("name", "val/top1").partition("/")
    sign = -1 if metric.get("goal") == "minimize" else 1
    scores = {}
    for index in range(len(draws)):
        run_dir = folder / f"{index:02d}"
        if not (run_dir / RESULTS).exists():
            continue  # its exit status was printed
        try:
            measured = read_results(run_dir).metrics.get(split)
        except DamagedFile as error:
            print(error, file=sys.stderr)
            continue
        score = math.nan if measured is None else measured.get(name, math.nan)
        if math.isfinite(score):
            scores[index] = score
        else:
            print(f"{run_dir}: no finite {split}/{name}, left out", file=sys.stderr)
    if scores:
        best = max(scores, key=lambda index: sign * scores[index])
        place, values = folder / f"{best:02d}", describe_trial(draws[best])
        print(f"best of {len(scores)}: {place} {split}/{name} {scores[best]:.4f}{values}")
    return len(draws) - len(scores)
