"""One fine-tuning run as a child process: started, resumed, or only read."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from transfer.config.command_line import unflatten
from transfer.errors import Interrupted
from transfer.experiments.processes import Children, last_lines, single_process_environment, was_stopped

FINETUNE = ("-m", "transfer", "finetune")


BEST, LAST, METRICS, RESULTS = "best.ckpt", "last.ckpt", "metrics.csv", "results.json"


class RunFailed(Exception):
    """A fine-tuning ended with an error; the text is the end of what it printed."""


def run_command(run_dir: Path, arguments: Sequence[str]) -> list[str] | None:
    """The command that brings a run to its results: a new one, or its resumption; None if it is done.

    Args:
        arguments: of finetune for a new run, without `--out_dir`.
    """
    if (run_dir / RESULTS).exists():
        return None
    if (run_dir / LAST).exists():
        return [*FINETUNE, "--resume", str(run_dir)]
    if run_dir.exists():
        shutil.rmtree(run_dir)  # it was stopped before its first checkpoint
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    return [*FINETUNE, *arguments, "--out_dir", str(run_dir)]


def finish_run(
    folder: Path,
    name: str,
    configuration: Mapping[str, Any],
    children: Children,
    lock: int,
    go_on: str,
    **environment: str,
) -> dict[str, Any]:
    """The results of the run FOLDER/NAME, which is started, resumed or only read, as its folder needs it.

    Beside it lie its configuration, NAME.yaml, and its output, NAME.log.

    Args:
        lock: descriptor that the run inherits.
        go_on: the user's command after an interruption.
        environment: variables that the run finds besides this process's.

    Raises:
        RunFailed: it ended without results.
        Interrupted: Ctrl-C or SIGTERM.
    """
    run_dir = folder / name
    recipe, log = (run_dir.with_name(run_dir.name + suffix) for suffix in (".yaml", ".log"))
    if command := run_command(run_dir, ["--config", str(recipe)]):
        recipe.write_text(yaml.safe_dump(unflatten(configuration), sort_keys=False))
        children.start(command, single_process_environment(**environment), log, lock)
        _, status = children.wait_any()
        if not (run_dir / RESULTS).exists():
            if children.stopped is not None or was_stopped(status):
                raise Interrupted(children.stopped or signal.SIGTERM, go_on)
            reason = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            raise RunFailed(f"{name}: {reason}\n{last_lines(log)}")
    results: dict[str, Any] = json.loads((run_dir / RESULTS).read_text())
    return results


def drop_checkpoints(run_dir: Path) -> None:
    """Of a run whose metrics are all that is wanted."""
    for checkpoint in (BEST, LAST):
        (run_dir / checkpoint).unlink(missing_ok=True)


def final_metrics(path: Path) -> dict[str, float]:
    """The val metrics at a run's end, which is what the final fit is tested at; not those of its best validation."""
    with open(path, newline="") as file:
        *_, row = csv.DictReader(file)
    return {name.removeprefix("val/"): float(value) for name, value in row.items() if name.startswith("val/")}
