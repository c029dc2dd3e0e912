"""A run's folder: where it lies, who owns it, and what is in it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from transfer.config.command_line import save_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import UserError
from transfer.files import write_json
from transfer.runs.results import RESULTS
from transfer.training.checkpointing import BEST, LAST

CONFIG, METRICS, HELD_OUT = "config.yaml", "metrics.csv", "held_out.json"
RUN_DIR_VARIABLE = "TRANSFER_RUN_DIR"


@dataclass(frozen=True)
class RunFolder:
    """The folder that a run writes into.

    Attributes:
        path: the folder.
        resumes: whether the run goes on with one that was interrupted.
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
        """The table of metrics, a row for each validation."""
        return self.path / METRICS

    def begin(self, config: FinetuneConfig, held_out: dict[str, dict[str, object]]) -> None:
        """Write what a new run starts with: its configuration, and which images were held out of train.

        Args:
            config: the whole configuration.
            held_out: by split that the source does not have, where its images come from.
        """
        save_config(config, self.path / CONFIG)
        if held_out:
            write_json(self.path / HELD_OUT, held_out)

    def check_space(self, num_parameters: int) -> None:
        """Refuse to start when the checkpoints cannot fit on the disk.

        Two checkpoints of weights, average and two moments, and a third while one is replaced: 48 bytes a parameter.

        Raises:
            UserError: too little space.
        """
        needed = 48 * num_parameters
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise UserError(
                f"{self.path}: {free / 2**20:.0f} MiB free, about {needed / 2**20:.0f} MiB are needed for checkpoints:"
                " free some space or choose another `out_dir`"
            )


def open_run(config: FinetuneConfig, resume: Path | None, kind: str = "") -> RunFolder:
    """Return the folder of a run: the one to resume, or a new one, which no other process can get as well.

    A new one is `out_dir`, or the next number under runs/<dataset>_<backbone><kind>/. All processes of a run get the
    same folder: processes that Lightning starts inherit it, processes that a scheduler starts agree on the scheduler's
    job id, and the runs of a W&B sweep are named by their ids.

    Args:
        config: `out_dir`, `dataset` and `backbone` of it.
        resume: the folder of an interrupted run.
        kind: ends the name of the folder of numbered runs.

    Raises:
        UserError: processes could not agree.
    """
    if resume is not None:
        os.environ[RUN_DIR_VARIABLE] = str(resume.resolve())
        return RunFolder(resume, resumes=True)
    if not is_main_process() and RUN_DIR_VARIABLE in os.environ:
        return RunFolder(Path(os.environ[RUN_DIR_VARIABLE]))
    if config.out_dir is not None:
        path = Path(config.out_dir)
        path.mkdir(parents=True, exist_ok=True)
    else:
        path = _claim(Path("runs") / f"{config.dataset}_{config.backbone}{kind}")
    os.environ[RUN_DIR_VARIABLE] = str(path.resolve())
    return RunFolder(path)


def check_run_dir(config: FinetuneConfig, resume: Path | None) -> None:
    """Refuse a folder that cannot be a run's, before anything is loaded.

    Raises:
        UserError: the run to resume is finished, or `out_dir` holds another run.
    """
    if resume is not None:
        if (resume / RESULTS).exists():
            raise UserError(f"{resume} is a finished run (it has {RESULTS}); there is nothing to resume")
    elif config.out_dir is not None:
        path = Path(config.out_dir)
        # These two alone belong to a run that never took a step.
        content = {p.name for p in path.iterdir()} - {CONFIG, HELD_OUT} if path.is_dir() else set()
        if path.is_file() or (content and is_main_process()):
            raise UserError(
                f"`out_dir`={path} is not empty; it may hold another run: choose a new folder, or go on with that run:"
                f" `resume`={path}"
            )


def _claim(parent: Path) -> Path:
    # A sweep's agent starts many runs in one job, and agents beside each other would take the same number.
    agent = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    job = agent or os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if job != "none":
        (parent / job).mkdir(parents=True, exist_ok=True)
        return parent / job
    if "WORLD_SIZE" in os.environ or "RANK" in os.environ:
        raise UserError("processes started by hand cannot agree on a run's number: pass `out_dir`")
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=0) + 1
    while True:
        try:
            (parent / str(number)).mkdir()
            return parent / str(number)
        except FileExistsError:
            number += 1


def is_main_process() -> bool:
    """Return whether this process is the first of the run; known before any process group exists."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"))
