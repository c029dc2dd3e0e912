"""One cell from its trials to result.json: every run is a finetune of its own, with its configuration in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.config.protocols import get_protocol, protocol_settings
from transfer.experiments.child_run import (
    METRICS,
    RunFailed,
    drop_checkpoints,
    final_metrics,
    finish_run,
)
from transfer.experiments.halving import Trial, best, describe_search, plan_rungs, trials_of
from transfer.experiments.locks import locked
from transfer.experiments.processes import Children
from transfer.experiments.table.cells import Cell, Table, cell_dir, read_result
from transfer.experiments.table.entries import RESULT
from transfer.files import write_json


def run_cell(
    folder: Path, table: Table, cell: Cell, devices: int = 1, retry_failed: bool = False, fork: bool = False
) -> str:
    """Brings a cell to its result, from wherever an earlier attempt ended, and gives its status: `done` or `failed`.

    Args:
        devices: GPUs of each run (processes where there are none).
        fork: see `Children`.

    Raises:
        CellIsTaken: another process is at it.
        Interrupted: Ctrl-C or SIGTERM; what has been computed is kept.
    """
    place = cell_dir(folder, cell)
    with locked(place / "lock") as lock, Children(fork) as children:
        result = read_result(folder, cell)
        if result is not None and not (retry_failed and result["status"] == "failed"):
            return result["status"]
        fit = _Fit(folder, cell, table, devices, children, lock)
        try:
            result = _compute(place, fit)
        except RunFailed as failure:
            result = {**_planned(cell, table), "status": "failed", "error": str(failure)}
        write_json(place / RESULT, result)
        return result["status"]


def run_configuration(cell: Cell, table: Table, trial: Trial, devices: int, final: bool) -> dict[str, Any]:
    """The dotted fields of one run that differ from the defaults.

    Args:
        final: whether it is the fit whose test is the cell's result; it trains on val too, which has done its work.
    """
    settings = protocol_settings(
        get_protocol(cell.protocol),
        trial,
        dataset=cell.dataset,
        backbone=cell.backbone,
        num_images=cell.num_images,
        devices=devices,
        max_batch_per_device=cell.max_batch_per_device,
    )
    decided = {
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "seed": cell.seed,
        "data_root": table.data_root,
        "trainer.devices": devices,
    }
    weights = {} if table.pretrained is None else {"pretrained": table.pretrained}
    last = {"data.train_on": "trainval"} if final else {"trainer.limit_test_batches": 0}
    return {**weights, **settings, **table.set, **decided, **last}


def shortened(configuration: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The same run over fewer steps, with as many validations."""
    share = steps / configuration["trainer.max_steps"]
    validate = "trainer.check_val_every_n_epoch"
    return {**configuration, "trainer.max_steps": steps, validate: max(1, int(configuration[validate] * share))}


class _Fit:
    """Runs finetune for one cell."""

    def __init__(self, folder: Path, cell: Cell, table: Table, devices: int, children: Children, lock: int) -> None:
        self.cell, self.table, self.devices = cell, table, devices
        self._folder, self._children, self._lock = folder, children, lock
        self._go_on = f"efficientnet-transfer table run {folder}"

    def configuration(self, trial: Trial, final: bool = False) -> dict[str, Any]:
        return run_configuration(self.cell, self.table, trial, self.devices, final)

    def __call__(self, run_dir: Path, configuration: Mapping[str, Any]) -> dict[str, Any]:
        """See `finish_run`."""
        name = str(run_dir.relative_to(self._folder))
        return finish_run(self._folder, name, configuration, self._children, self._lock, self._go_on)


@dataclass(frozen=True)
class _Trials:
    """What the trials came to.

    Attributes:
        chosen: position of the best one in the grid.
        val: its metrics on val, at its end; None if there was nothing to choose.
        runs: results of all of them.
    """

    chosen: int
    val: dict[str, float] | None
    runs: list[dict[str, Any]]


def _compute(place: Path, fit: _Fit) -> dict[str, Any]:
    cell, table = fit.cell, fit.table
    grid = get_protocol(cell.protocol).grid
    trials = trials_of(grid, table.grid)
    steps = fit.configuration(trials[0])["trainer.max_steps"]
    search = _search(place / "trials", fit, trials, steps)
    chosen = trials[search.chosen]
    final = fit(place / "final", fit.configuration(chosen, final=True))
    quoted = final["quoted_metric"]
    print(f"{cell.id}: test {quoted} {final['metrics']['test'][quoted]:.4f}{describe(chosen)}", flush=True)
    runs = [*search.runs, final]
    gpu_seconds = [run["train_seconds"] * run["world_size"] for run in runs if run["hardware"]["gpus"]]
    return {
        **_planned(cell, table),
        "status": "done",
        "data_note": "; ".join(note for note in (table.data_note, final["copy"]) if note) or None,
        "metrics": {"test": final["metrics"]["test"], "val": search.val},
        "quoted_metric": quoted,
        "decay": final["decay"],
        "chosen": dict(chosen),
        "num_trials": len(search.runs),
        "search": describe_search(len(trials), steps, table.grid if len(grid) > 1 else {}, table.budget_steps),
        "weights": final["weights"],
        "final_run": f"cells/{cell.id}/final",
        "test_reads": final["test_reads"],
        "train_seconds": round(sum(run["train_seconds"] for run in runs), 2),
        "gpu_hours": round(sum(gpu_seconds) / 3600, 4),
        "hardware": final["hardware"],
        "versions": final["versions"],
        "git_commit": final["git_commit"],
    }


def _search(place: Path, fit: _Fit, trials: Sequence[Trial], steps: int) -> _Trials:
    """Runs the trials, rung by rung."""
    rungs = plan_rungs(len(trials), steps, fit.table.budget_steps)
    left, runs = list(range(len(trials))), []
    metrics: list[dict[str, float]] = []
    for number, rung in enumerate(rungs):
        left, scores, metrics = left[: rung.size], [], []
        for position, index in enumerate(left):
            run_dir = place / (f"{index:02d}" if len(rungs) == 1 else f"rung{number}_{index:02d}")
            runs.append(fit(run_dir, shortened(fit.configuration(trials[index]), rung.steps)))
            drop_checkpoints(run_dir)
            metrics.append(final_metrics(run_dir / METRICS))
            quoted = runs[-1]["quoted_metric"]
            scores.append(metrics[-1][quoted])
            print(
                f"{fit.cell.id}: trial {position + 1} of {rung.size}, {rung.steps} steps{describe(trials[index])}:"
                f" val {quoted} {scores[-1]:.4f}",
                flush=True,
            )
        order = best(scores, len(scores))
        left, metrics = [left[k] for k in order], [metrics[k] for k in order]
    return _Trials(left[0], metrics[0] if metrics else None, runs)


def _planned(cell: Cell, table: Table) -> dict[str, Any]:
    """A result's entries, with what is known before anything was run."""
    unknown = (
        *("metrics", "quoted_metric", "decay", "chosen", "num_trials", "search", "weights", "final_run", "test_reads"),
        *("train_seconds", "gpu_hours", "hardware", "versions", "git_commit", "error"),
    )
    return {
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "protocol": cell.protocol,
        "seed": cell.seed,
        "num_parameters_without_classifier": cell.num_parameters,
        "overrides": dict(table.not_comparable),
        "data_note": table.data_note,
        **dict.fromkeys(unknown),
    }


def describe(trial: Trial) -> str:
    """` (optim.lr 0.1, ...)`, or nothing for an empty trial."""
    words = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.items()]
    return f" ({', '.join(words)})" if words else ""
