"""The folder of a run: its path, which process owns it, and its files."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from transfer.config.command_line import save_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import UserError
from transfer.files import write_json
from transfer.run_files import BEST, CONFIG, HELD_OUT, LAST, METRICS, RESULTS

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

    def begin(self, config: FinetuneConfig, held_out: dict[str, dict[str, object]]) -> None:
        """Write the first files of a new run: its configuration, and the images that were held out of train.

        Args:
            config: the whole configuration.
            held_out: for each split that the source lacks, where its images come from.
        """
        save_config(config, self.path / CONFIG)
        if held_out:
            write_json(self.path / HELD_OUT, held_out)

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
            raise UserError(
                f"{self.path}: {free / 2**20:.0f} MiB free, about {needed / 2**20:.0f} MiB are needed for checkpoints:"
                " free some space or choose another `out_dir`"
            )


def open_run(config: FinetuneConfig, resume: Path | None, kind: str = "") -> RunFolder:
    """Return the folder of a run: the one to resume, or a new one that no other run can claim.

    A new folder is `out_dir`, or the next number under runs/<dataset>_<backbone><kind>/. All processes of a run get the
    same folder: processes started by Lightning inherit it, processes started by a scheduler use its job id, and runs of
    a W&B sweep are named by their run ids.

    Args:
        config: configuration, for `out_dir`, `dataset` and `backbone`.
        resume: folder of an interrupted run.
        kind: suffix for the name of the folder of numbered runs.

    Raises:
        UserError: the processes cannot agree on a folder.
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
    """Check that a run can use its folder, before anything is loaded.

    Args:
        config: configuration, for `out_dir`.
        resume: folder of the run to resume.

    Raises:
        UserError: the run to resume is finished, or `out_dir` holds another run.
    """
    if resume is not None:
        if (resume / RESULTS).exists():
            raise UserError(f"{resume} is a finished run (it has {RESULTS}); there is nothing to resume")
    elif config.out_dir is not None:
        path = Path(config.out_dir)
        # A run that never took a step leaves only these two.
        content = {p.name for p in path.iterdir()} - {CONFIG, HELD_OUT} if path.is_dir() else set()
        if path.is_file() or (content and is_main_process()):
            raise UserError(
                f"`out_dir`={path} is not empty; it may hold another run: choose a new folder, or continue that run:"
                f" `resume`={path}"
            )


def _claim(parent: Path) -> Path:
    # A sweep's agent starts many runs in one job, and concurrent agents would take the same number.
    agent = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    job = agent or os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if job != "none":
        (parent / job).mkdir(parents=True, exist_ok=True)
        return parent / job
    if "WORLD_SIZE" in os.environ or "RANK" in os.environ:
        raise UserError("processes started manually cannot agree on a run's number: pass `out_dir`")
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=0) + 1
    while True:
        try:
            (parent / str(number)).mkdir()
            return parent / str(number)
        except FileExistsError:
            number += 1


def is_main_process() -> bool:
    """Return whether this process is the first of the run; works before a process group exists."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"))
