"""One cell from its trials to result.json: every run is a process with its configuration in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transfer.config.protocols import get_protocol, protocol_settings
from transfer.experiments.child_run import RunDiverged, RunFailed, Worker, drop_checkpoints, final_metrics, quoted
from transfer.experiments.halving import best, describe_search, describe_trial, list_trials, plan_rounds
from transfer.experiments.jobs import Job, Outcome
from transfer.experiments.table.cells import Cell, Table, cell_dir, own_data_root, own_settings
from transfer.experiments.table.entries import CELLS, FINAL, RESULT, CellResult
from transfer.experiments.table.probe_cells import fields_of_a_probe, is_probe, probe_configuration
from transfer.runs.results import Results

Trial = Mapping[str, Any]


def cell_job(folder: Path, table: Table, cell: Cell, devices: int = 1) -> Job:
    """Return the job that brings a cell to its result.

    Args:
        folder: folder of the table.
        table: the table that the cell belongs to.
        cell: the cell.
        devices: GPUs of each run, or processes where there are none.
    """
    place = cell_dir(folder, cell)
    return Job(
        id=cell.id,
        outcome_file=place / RESULT,
        lock_file=place / "lock",
        compute=partial(compute_cell, table, cell, devices),
        failure={**_planned(cell, table), "status": "failed"},
        kind=CellResult,
    )


def table_jobs(folder: Path, table: Table) -> list[Job]:
    """Return the jobs of all cells, in the order of the plan."""
    return [cell_job(folder, table, cell) for cell in table.cells]


def run_configuration(cell: Cell, table: Table, trial: Trial, devices: int, final: bool) -> dict[str, Any]:
    """Return the dotted fields of one run that differ from the defaults.

    Args:
        cell: the cell that the run belongs to.
        table: the table that the cell belongs to.
        trial: dotted fields that the search chooses.
        devices: GPUs of the run.
        final: whether it is the fit whose test is the cell's result; it trains on val too, which has done its work.
    """
    settings = protocol_settings(
        get_protocol(cell.protocol),
        trial,
        dataset=cell.dataset,
        backbone=cell.backbone,
        num_images=cell.num_images,
        steps=table.set.get("trainer.max_steps"),
    )
    decided = {
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "seed": cell.seed,
        "data_root": own_data_root(cell.dataset, table.data_root),
        "trainer.devices": devices,
    }
    most = {"data.batch_size": cell.max_batch_per_device}
    weights = {} if table.pretrained is None else {"pretrained": table.pretrained}
    last = {"data.train_on": "trainval"} if final else {"trainer.limit_test_batches": 0}
    return {**weights, **settings, **most, **own_settings(cell.dataset, table.set), **decided, **last}


def shortened(configuration: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return the same run over fewer steps, with as many validations."""
    share = steps / configuration["trainer.max_steps"]
    validate = "trainer.check_val_every_n_epoch"
    return {**configuration, "trainer.max_steps": steps, validate: max(1, int(configuration[validate] * share))}


def compute_cell(table: Table, cell: Cell, devices: int, worker: Worker) -> Outcome:
    """Run the trials and the final fit of a cell and return its result.

    Raises:
        RunFailed: a run ended without results.
        Interrupted: Ctrl-C or SIGTERM.
    """
    name = f"{CELLS}/{cell.id}/{FINAL}"
    if is_probe(cell):
        fit = _probe(table, cell, devices, worker, name)
    else:
        fit = _fine_tune(table, cell, devices, worker, name)
    final, metric = fit.final, fit.final.quoted_metric
    print(f"{cell.id}: test {metric} {quoted(final.test, final):.4f}{describe_trial(fit.chosen)}", flush=True)
    runs = [*fit.trials, final]
    on_gpu = [run for run in runs if run.environment["hardware"]["gpus"]]
    gpu_seconds = sum(_seconds(run) * run.world_size for run in on_gpu)
    return {
        **_planned(cell, table),
        "status": "done",
        "copy": final.copy,
        "skipped_images": len(final.skipped_images),
        "seen_test_images": final.seen_images.get("test", 0),
        "image_size": final.image_size or None,
        "metrics": {"test": final.test, "val": fit.val},
        "quoted_metric": metric,
        "decay": final.decay,
        "chosen": dict(fit.chosen),
        "num_trials": len(fit.trials),
        "steps": final.steps,
        "search": fit.search,
        "weights": final.weights,
        "final_run": name,
        "test_reads": final.test_reads,
        "train_seconds": round(sum(map(_seconds, runs)), 2),
        "gpu_hours": round(gpu_seconds / 3600, 4),
        "hardware": final.environment["hardware"],
        "versions": final.environment["versions"],
        "git_commit": final.environment["git_commit"],
    }


@dataclass(frozen=True)
class _Fit:
    """What a cell's runs came to.

    Attributes:
        final: results of the run whose test is the cell's result.
        chosen: what was chosen on val.
        val: the metrics on val by which it was; None if there was nothing to choose.
        trials: results of the runs before the final one.
        search: how the trials were searched, in words.
    """

    final: Results
    chosen: Trial
    val: Mapping[str, float] | None
    trials: Sequence[Results]
    search: str


def _fine_tune(table: Table, cell: Cell, devices: int, worker: Worker, name: str) -> _Fit:
    """Search the trials of a cell's protocol, and fit the best one to train and val."""
    grid = get_protocol(cell.protocol).grid
    trials = list_trials(grid, table.grid)
    steps = run_configuration(cell, table, trials[0], devices, final=False)["trainer.max_steps"]
    search = _search(table, cell, devices, worker, trials, steps)
    chosen = trials[search.chosen]
    final = worker.finetune(name, run_configuration(cell, table, chosen, devices, final=True), cell.id)
    described = describe_search(len(trials), steps, table.grid if len(grid) > 1 else {}, table.budget_steps)
    return _Fit(final, chosen, search.val, search.runs, described)


def _probe(table: Table, cell: Cell, devices: int, worker: Worker, name: str) -> _Fit:
    """Fit a linear probe, which chooses among its penalties by itself."""
    final = worker.probe(name, probe_configuration(cell, table, devices))
    chosen = {} if final.probe is None else {"penalty": float(f"{final.probe.penalty:.4g}")}
    return _Fit(final, chosen, final.metrics.get("val"), [], "full grid")


def _seconds(run: Results) -> float:
    """Return the time that a run took to learn; a probe's, to compute the features and to fit them."""
    if run.probe is not None:
        return run.probe.extract_seconds + run.probe.fit_seconds
    return run.train_seconds or 0.0


@dataclass(frozen=True)
class _Search:
    """What the trials came to.

    Attributes:
        chosen: position of the best trial in the grid.
        val: its metrics on val at its end; None if there was nothing to choose.
        runs: results of all trials.
    """

    chosen: int
    val: dict[str, float] | None
    runs: list[Results]


def _search(table: Table, cell: Cell, devices: int, worker: Worker, trials: Sequence[Trial], steps: int) -> _Search:
    """Run the trials, round by round; one that diverges is the worst.

    Raises:
        RunFailed: a run ended without results for another reason, or all diverged.
    """
    rounds = plan_rounds(len(trials), steps, table.budget_steps)
    left, runs = list(range(len(trials))), []
    metrics: list[dict[str, float]] = []
    for number, current in enumerate(rounds):
        left, scores, metrics = left[: current.size], [], []
        for position, index in enumerate(left):
            # The folders' names belong to the format on disk: a table goes on with what an earlier version began.
            name = f"{index:02d}" if len(rounds) == 1 else f"rung{number}_{index:02d}"
            configuration = run_configuration(cell, table, trials[index], devices, final=False)
            heading = f"{cell.id}: trial {position + 1} of {current.size}, {current.steps} steps"
            heading += describe_trial(trials[index])
            try:
                configuration = shortened(configuration, current.steps)
                run = worker.finetune(f"{CELLS}/{cell.id}/trials/{name}", configuration, cell.id)
            except RunDiverged as error:
                metrics.append({})
                scores.append(math.nan)
                print(f"{heading}: {str(error).splitlines()[-1]}", flush=True)
                continue
            drop_checkpoints(run.run_dir)
            runs.append(run)
            metrics.append(final_metrics(run.run_dir))
            scores.append(quoted(metrics[-1], run))
            print(f"{heading}: val {run.quoted_metric} {scores[-1]:.4f}", flush=True)
        if all(math.isnan(score) for score in scores):
            raise RunFailed(f"{cell.id}: every one of {len(scores)} trials diverged")
        order = best(scores, len(scores))
        left, metrics = [left[k] for k in order], [metrics[k] for k in order]
    return _Search(left[0], metrics[0] if metrics else None, runs)


def _planned(cell: Cell, table: Table) -> dict[str, Any]:
    """Return all entries of a result, with those that are known before anything was run."""
    unknown = (
        *("metrics", "quoted_metric", "decay", "chosen", "num_trials", "steps", "search", "weights", "final_run"),
        *("test_reads", "copy", "skipped_images", "seen_test_images", "image_size"),
        *("train_seconds", "gpu_hours", "hardware", "versions", "git_commit", "error"),
    )
    return {
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "protocol": cell.protocol,
        "seed": cell.seed,
        "num_parameters_without_classifier": cell.num_parameters,
        "overrides": fields_of_a_probe(table.not_comparable) if is_probe(cell) else dict(table.not_comparable),
        "data_note": table.data_note,
        **dict.fromkeys(unknown),
    }
