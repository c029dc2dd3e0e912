"""W&B's sweep files, and how to run one without W&B."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from transfer.errors import UserError, unknown_name
from transfer.experiments.launchers import Sweep

METHODS = ("grid", "random", "bayes")


def load_sweep(path: Path) -> Sweep:
    """A sweep file.

    Raises:
        UserError: no such file, or it says what only W&B's own agents can do.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict) or not content.keys() >= {"program", "method", "parameters"}:
        raise UserError(f"{path}: not a sweep file (it needs program, method and parameters)")
    if content["method"] not in METHODS:
        raise unknown_name(f"method of {path}", str(content["method"]), METHODS)
    if "early_terminate" in content:
        print(f"{path}: early_terminate is W&B's; every run goes to its end here", file=sys.stderr)
    sweep = Sweep(
        program=content["program"],
        method=content["method"],
        parameters=content["parameters"],
        command=tuple(map(str, content.get("command", Sweep.command))),
        metric=content.get("metric", {}),
        run_cap=content.get("run_cap"),
    )
    for needed in ("${program}", "${args}"):
        if needed not in sweep.command:
            raise UserError(f"{path}: its command has no {needed}")
    return sweep


def draw(sweep: Sweep, count: int | None, seed: int = 0) -> list[dict[str, Any]]:
    """The values of each run: all of a grid; of `random` and `bayes`, `count` independent draws from their ranges.

    W&B chooses the next point of `bayes` by what the last ones gave; here it is a random search.

    Args:
        count: None is the file's run_cap; of a grid, all.

    Raises:
        UserError: `random` or `bayes` without a count; a distribution that is not known here.
    """
    count = sweep.run_cap if count is None else count
    if sweep.method == "grid":
        choices = [_choices(name, parameter) for name, parameter in sweep.parameters.items()]
        runs = [dict(zip(sweep.parameters, values, strict=True)) for values in product(*choices)]
        return runs[:count]
    if count is None:
        raise UserError(f"method {sweep.method}: the file has no run_cap; say how many runs: --count N")
    generator = random.Random(seed)
    return [
        {name: _sample(name, parameter, generator) for name, parameter in sweep.parameters.items()}
        for _ in range(count)
    ]


def _choices(name: str, parameter: Mapping[str, Any]) -> Sequence[Any]:
    if "value" in parameter:
        return [parameter["value"]]
    if "values" in parameter:
        return parameter["values"]
    raise UserError(f"parameter {name}: a grid needs value or values")


def _sample(name: str, parameter: Mapping[str, Any], generator: random.Random) -> Any:
    if "value" in parameter or "values" in parameter:
        return generator.choice(_choices(name, parameter))
    low, high = parameter.get("min"), parameter.get("max")
    if low is None or high is None:
        raise UserError(f"parameter {name}: give value, values, or min and max")
    integers = isinstance(low, int) and isinstance(high, int)
    kind = parameter.get("distribution", "int_uniform" if integers else "uniform")
    if kind == "int_uniform":
        return generator.randint(low, high)
    if kind == "uniform":
        return generator.uniform(low, high)
    if kind == "log_uniform_values":
        return math.exp(generator.uniform(math.log(low), math.log(high)))
    raise unknown_name(f"distribution of {name}", str(kind), ("uniform", "int_uniform", "log_uniform_values"))
