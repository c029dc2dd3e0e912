"""A run for each fold, one after the other, and what they say together: efficientnet-transfer finetune --folds 5

The runs are fold0, fold1, ... in runs/<data>_<backbone>_folds/<n>/, each a run like any other, with its output in
fold0.log. Beside them lie out_of_fold.npz, what was said of each image of train and val by the network that was not
trained on it, and at last folds.json. What is finished there is not done again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from transfer.commands.fold_line import FoldLine
from transfer.commands.folds_report import FoldResults, OutOfFold, collect, describe, describe_fold
from transfer.config.command_line import build_config, load_config
from transfer.config.parsing import flatten, unflatten
from transfer.config.recipes import split_resume, user_code
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, Diverged, MissingData
from transfer.files import expanded, write_json, write_text
from transfer.locks import soft_name
from transfer.networks.user_code import refuse_user_code
from transfer.run_files import CONFIG, LOCK, RESULTS
from transfer.runs.results import Results
from transfer.yaml_files import read_yaml

if TYPE_CHECKING:
    from transfer.experiments.child_run import Worker

PLAN = "folds.yaml"  # the recipe of the runs
RECORD, OUT_OF_FOLD = "folds.json", "out_of_fold.npz"


def finetune_folds(
    config: FinetuneConfig | None = None, *, allow_user_code: bool = False, **fields: Any
) -> FoldResults:
    """Fine-tune a network for each of `folds` parts of the data, and return what they say together.

    The runs are processes of their own, one after the other. Called again with the `out_dir` of an interrupted call,
    it goes on from there.

    Args:
        config: the whole configuration; None starts from the defaults. It is not modified.
        allow_user_code: whether to import a backbone or a head of one's own that the teacher names.
        fields: fields of `transfer.config.schema.FinetuneConfig` that override `config`, as in `finetune`: with
            `folds`, and without `fold`.

    Raises:
        UserError: the configuration or the data cannot be used, or a run failed; the message says why.
        Interrupted: a signal stopped the runs; what is finished is kept.
    """
    config, given = build_config(config, None, fields, allow_user_code)
    return train_folds(config, given, allow_user_code, fork=False)  # which a notebook's threads would not survive


def resumed_words(words: Sequence[str]) -> Sequence[str]:
    """Return the words of a command, those that resume a folder of folds in the form that began it."""
    folder, allow_user_code, rest = split_resume(words)
    if folder is None or not (folder / PLAN).is_file():
        return words
    return ["--config", str(folder / PLAN), "--out_dir", str(folder), *rest, *["--allow_user_code"] * allow_user_code]


def train_folds(
    config: FinetuneConfig, given: frozenset[str], allow_user_code: bool, fork: bool | None = None
) -> FoldResults:
    """Bring the run of each fold to its results, and write and print what they say together.

    Args:
        config: the configuration, with `folds` and without `fold`.
        given: dotted fields that the user set.
        allow_user_code: whether to import a backbone or a head of one's own that the teacher names.
        fork: see `transfer.experiments.processes.Children`; None: where there is no GPU.

    Raises:
        UserError, Interrupted: see `finetune_folds`.
    """
    from transfer.commands.experiments import usable_gpus
    from transfer.commands.finetune import check_names
    from transfer.experiments.child_run import Worker
    from transfer.experiments.jobs import check_same_plan
    from transfer.experiments.locks import JobIsTaken, locked
    from transfer.experiments.processes import Children

    started = time.perf_counter()
    _check(config, allow_user_code)
    config, _, _ = check_names(config, given)
    folder, plan = claim_folder(config), _plan(config, given)
    if fork is None:
        fork = not usable_gpus(config.trainer.accelerator == "cpu")
    try:
        with locked(folder / LOCK) as lock, Children(fork) as children:
            if (folder / PLAN).exists():
                before = flatten(dict(read_yaml(folder / PLAN).content))
                check_same_plan(folder, before, plan, sorted(before.keys() | plan.keys()))
            write_text(folder / PLAN, yaml.safe_dump(unflatten(plan), sort_keys=False))
            worker = Worker(folder, children, lock, f"efficientnet-transfer finetune --resume {folder}")
            results = _train_all(worker, plan)
    except JobIsTaken:
        raise BadValue(f"{folder}: another process is using this folder: wait for its end") from None
    found = _out_of_fold(results)
    found.save(folder / OUT_OF_FOLD)
    record = collect(config, results, found, folder, time.perf_counter() - started)
    write_json(folder / RECORD, record.to_dict())
    print(describe(record, config))
    return record


def _check(config: FinetuneConfig, allow_user_code: bool) -> None:
    """Refuse what a run for each fold cannot be.

    Raises:
        BadValue: the configuration has no folds, or one; processes are started by others; the teacher names code.
    """
    if config.folds is None or config.fold is not None:
        raise BadValue(f"`folds`={config.folds} with `fold`={config.fold}: a run for each fold needs `folds` alone")
    if config.trainer.num_nodes > 1 or "WORLD_SIZE" in os.environ or "RANK" in os.environ:
        raise BadValue(
            f"`folds`={config.folds} on several machines, or in processes that something else started: start a run for"
            " each `fold`"
        )
    if config.teacher is not None:  # the runs are allowed what this process is
        saved = expanded(config.teacher) / CONFIG
        refuse_user_code(config.teacher, user_code(load_config(saved)), allow_user_code)


def _plan(config: FinetuneConfig, given: frozenset[str]) -> dict[str, Any]:
    """Return the dotted fields that the user set, which all runs share."""
    values = flatten(config.to_dict())
    return {name: values[name] for name in sorted(given - {"out_dir"})}


def claim_folder(config: FinetuneConfig) -> Path:
    """Return the folder of the runs: `out_dir` or that of this job, new or begun by the same command; or the next one.

    Raises:
        BadValue: `out_dir` holds something else.
    """
    from transfer.runs.folder import job_id
    from transfer.runs.names import claim_number, numbered_runs

    parent, job = numbered_runs(config, "_folds"), job_id()
    if config.out_dir is None and job is None:
        return claim_number(parent)
    path = parent / str(job) if config.out_dir is None else Path(config.out_dir)
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if path.is_file() or (names - {LOCK, soft_name(LOCK)} and PLAN not in names):
        raise BadValue(f"`out_dir`={path} is not empty; it may hold another run: choose a new folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _train_all(worker: Worker, plan: Mapping[str, Any]) -> list[Results]:
    """Return the results of the run of each fold; print a line for each.

    Raises:
        BadValue, Diverged: a run failed.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.experiments.child_run import RunDiverged, RunFailed

    results: list[Results] = []
    for fold in range(plan["folds"]):
        name = f"fold{fold}"
        if not (worker.folder / name / RESULTS).exists():
            print(f"{name}: its output is in {worker.folder / name}.log", flush=True)
        try:
            with FoldLine(worker.folder / name, fold, plan["folds"]) as line:
                results.append(worker.finetune(name, {**plan, "fold": fold}, watch=line.draw))
        except RunDiverged as failure:
            raise Diverged(str(failure)) from None
        except RunFailed as failure:
            head, _, output = str(failure).partition("\n")
            _, found, message = output.partition("error: ")  # of a user's mistake nothing else is worth reading
            is_explained = found and head.endswith("exit status 2")
            raise BadValue(f"{name}: {message}" if is_explained else str(failure)) from None
        print(f"{name}: {describe_fold(results[-1])}", flush=True)
    return results


def _out_of_fold(results: Sequence[Results]) -> OutOfFold:
    """Return what the best checkpoint of each run says of its val.

    Raises:
        MissingData: a checkpoint or the images are gone.
        BadValue: the images have changed since.
    """
    from transfer.commands.evaluate import measure
    from transfer.commands.evaluate_data import open_images
    from transfer.runs.predictor import load_run

    parts, groups = [], []
    for each in results:
        if "val" not in each.splits:
            raise MissingData(f"{each.run_dir}: no val split")
        run = load_run(each.run_dir, allow_user_code=True)  # as the user has allowed the run itself
        subject = open_images(run, "val", None, {})
        parts.append(measure(run, subject, "best", "torch", {}).predictions)
        if subject.changed:
            raise BadValue(f"{each.run_dir}: its {' and '.join(subject.changed)} changed since it was trained")
        groups.append(subject.dataset.split("test").groups)
    return OutOfFold.of(parts, groups)
