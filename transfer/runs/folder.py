"""The folder of a run: its path, which process owns it, and its files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from transfer.config.command_line import load_config, save_config
from transfer.config.parsing import flatten
from transfer.config.resuming import is_longer
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, RunInterrupted
from transfer.files import is_leftover, remove_leftovers, write_json
from transfer.locks import held, soft_name
from transfer.run_files import BEST, CONFIG, HELD_OUT, LAST, LOCK, METRICS, NOTHING_LEARNED, PROBE, RESULTS
from transfer.runs.lengthening import lengthen
from transfer.runs.names import claim_number, numbered_runs

RUN_DIR_VARIABLE = "TRANSFER_RUN_DIR"


@dataclass(frozen=True)
class RunFolder:
    """The folder that a run writes into.

    Attributes:
        path: the folder.
        resumes: whether the run continues an interrupted one.
    """

    path: Path
    resumes: bool = False

    @property
    def best(self) -> Path:
        """The best checkpoint."""
        return self.path / BEST

    @property
    def last(self) -> Path:
        """The last checkpoint."""
        return self.path / LAST

    @property
    def metrics(self) -> Path:
        """The table of metrics, one row per validation."""
        return self.path / METRICS

    def interrupted(self, signal_number: int) -> RunInterrupted:
        """Return the exception for a signal that stops the run where it is."""
        return RunInterrupted(signal_number, self.last)

    def begin(self, config: FinetuneConfig, held_out: dict[str, dict[str, object]]) -> None:
        """Write the first files of a new run, its configuration and what was held out of train, or one's new length.

        Args:
            config: the whole configuration.
            held_out: for each split that the source lacks, where its images come from.
        """
        if self.resumes:
            return lengthen(self.path, config)
        if held_out:
            write_json(self.path / HELD_OUT, held_out)
        save_config(config, self.path / CONFIG)  # last: a folder that has it holds a run to resume

    def check_space(self, num_parameters: int) -> None:
        """Check that the checkpoints fit on the disk.

        There are two checkpoints with weights, average and two moments, and a third while one is being replaced: 48
        bytes per parameter.

        Args:
            num_parameters: number of the network's parameters.

        Raises:
            UserError: too little space.
        """
        needed = 48 * num_parameters
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise BadValue(
                f"{self.path}: {free / 2**20:.0f} MiB free, about {needed / 2**20:.0f} MiB are needed for checkpoints:"
                " free some space or choose another `out_dir`"
            )


@contextmanager
def open_run(config: FinetuneConfig, resume: Path | None, kind: str = "") -> Iterator[RunFolder]:
    """Yield the folder of a run: the one to resume, or a new one. No other run can use it until this one ends.

    A new folder is `out_dir`, or the next number in `numbered_runs`. All processes of a run get the same folder:
    processes started by Lightning inherit it, processes started by a scheduler use its job id, and runs of a W&B sweep
    are named by their run ids. The main process holds the folder; killed, it lets go of it. A run that fails before
    its first file leaves no folder.

    Args:
        config: configuration, for `out_dir`, `dataset` and `backbone`.
        resume: folder of an interrupted run.
        kind: suffix for the name of the folder of numbered runs.

    Raises:
        UserError: the processes cannot agree on a folder, another process uses it, or it holds another run.
    """
    if not is_main_process():
        path = resume or _inherited() or _named_folder(config, kind)
        with _made(path):  # the main process may come later
            yield RunFolder(path, resumes=resume is not None)
        return
    path = resume or (_named_folder(config, kind) if config.out_dir or job_id() else _new_folder(config, kind))
    with _made(path), _held(path):
        remove_leftovers(path)
        check_run_dir(config, resume, kind)
        if resume is None and _content(path, kind):
            _check_same_run(path, config)
        os.environ[RUN_DIR_VARIABLE] = str(path.resolve())
        yield RunFolder(path, resumes=resume is not None)


def check_run_dir(
    config: FinetuneConfig, resume: Path | None, kind: str = "", settled: Container[str] = frozenset()
) -> None:
    """Check that a run can use its folder, before anything is loaded.

    Args:
        config: configuration, for `out_dir`, `dataset` and `backbone`.
        resume: folder of the run to resume.
        kind: suffix for the name of the folder of numbered runs.
        settled: dotted fields that no protocol or recipe will change: a run which this job has begun has the same.

    Raises:
        UserError: the run to resume is finished, or the folder holds another run.
    """
    if resume is not None:
        if (resume / PROBE).exists():
            raise BadValue(f"`resume`={resume}: a linear probe, which is not resumed: run the probe again")
        if (resume / RESULTS).exists() and not _is_lengthened(resume, config):
            raise BadValue(
                f"{resume} is a finished run (it has {RESULTS}); there is nothing to resume: raise"
                " `trainer.max_epochs` to lengthen it"
            )
        return
    if config.out_dir is not None:
        path = Path(config.out_dir)
        if path.is_file() or (is_main_process() and _content(path, kind) and not _is_begun(path, kind)):
            raise BadValue(_not_empty(path, kind))
    elif job_id():
        path = _named_folder(config, kind)
        if (path / RESULTS).exists():
            raise BadValue(f"{path} is a finished run, and has the name of this job: set `out_dir` for another run")
    else:
        return
    if settled and (path / CONFIG).exists() and _content(path, kind):
        _check_same_run(path, config, settled)


def _not_empty(path: Path, kind: str) -> str:
    is_probe = kind or (path / PROBE).exists()
    way_out = "" if is_probe else f", or continue that run: `resume`={path}"
    return f"`out_dir`={path} is not empty; it may hold another run: choose a new folder{way_out}"


def _is_begun(path: Path, kind: str) -> bool:
    """Return whether a folder holds an unfinished run that this process may have begun before it was started again."""
    is_unfinished = (path / CONFIG).exists() and not (path / RESULTS).exists() and not (path / PROBE).exists()
    return not kind and is_unfinished and may_start_again()


@contextmanager
def _made(path: Path) -> Iterator[None]:
    """Create a folder, and remove one of ours if what follows fails before there is a file in it."""
    is_users = path.is_dir() and not path.name.isdigit()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not is_users:
            with suppress(OSError):  # it has files
                path.rmdir()
        raise


def _is_lengthened(run_dir: Path, config: FinetuneConfig) -> bool:
    return (run_dir / CONFIG).exists() and is_longer(load_config(run_dir / CONFIG).trainer, config.trainer)


def find_interrupted(config: FinetuneConfig) -> Path | None:
    """Return the folder of the run that this job has begun before it was started again; None for a new run.

    All processes of a run find the same: a new run has no last.ckpt before all of them train.

    Args:
        config: the whole configuration.

    Raises:
        UserError: the job has begun a run of another configuration.
    """
    if not may_start_again():
        return None
    path = _inherited() or _named_folder(config)
    if not (path / LAST).exists():
        return None
    _check_same_run(path, config)
    return path


def job_id() -> str | None:
    """Return the name of the job that a scheduler or a sweep gave this process, the same when it starts it again."""
    # A sweep's agent starts many runs in one job, and concurrent agents would take the same number.
    agent = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    job = agent or os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if job == "none" else job


def may_start_again() -> bool:
    """Return whether a scheduler, a sweep or torchrun started this process, which may start it again."""
    return job_id() is not None or "TORCHELASTIC_RUN_ID" in os.environ


def _inherited() -> Path | None:
    given = os.environ.get(RUN_DIR_VARIABLE)
    return Path(given) if given and not is_main_process() else None


def _named_folder(config: FinetuneConfig, kind: str = "") -> Path:
    """Return the folder whose name all processes know."""
    if config.out_dir is not None:
        return Path(config.out_dir)
    if job := job_id():
        return numbered_runs(config, kind) / job
    raise BadValue("processes started manually cannot agree on a run's number: pass `out_dir`")


def _new_folder(config: FinetuneConfig, kind: str) -> Path:
    if "WORLD_SIZE" in os.environ or "RANK" in os.environ:
        raise BadValue("processes started manually cannot agree on a run's number: pass `out_dir`")
    return claim_number(numbered_runs(config, kind))


@contextmanager
def _held(path: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(held(path / LOCK, timeout=0))
        except Timeout:
            raise BadValue(
                f"{path}: another process is using this folder: wait for its end, or choose another `out_dir`"
            ) from None
        stack.callback((path / LOCK).unlink, missing_ok=True)  # before it is released
        yield


def _check_same_run(path: Path, config: FinetuneConfig, fields: Container[str] | None = None) -> None:
    before, now = flatten(load_config(path / CONFIG).to_dict()), flatten(config.to_dict())
    differ = [name for name in now if before[name] != now[name] and (fields is None or name in fields)]
    changed = [f"`{name}`={before[name]}, here {now[name]}" for name in differ]
    if changed:
        head = f"{path} holds an unfinished run, and has the name of this job: set `out_dir` for another run"
        raise BadValue("\n  ".join([_not_empty(path, "") if config.out_dir is not None else head, *changed]))


def _content(path: Path, kind: str) -> set[str]:
    """Return the names in a folder other than those that a run leaves which never took a step.

    To another probe, a probe without results is such a run.
    """
    files = (p.name for p in path.iterdir() if not is_leftover(p)) if path.is_dir() else ()
    names = {*files} - {LOCK, soft_name(LOCK)} - NOTHING_LEARNED
    return set() if kind and PROBE in names and RESULTS not in names else names


def is_main_process() -> bool:
    """Return whether this process is the first of the run; works before a process group exists."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"))
