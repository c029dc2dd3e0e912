"""A process that torchrun starts again goes on from last.ckpt, as if it had never been killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.support.kills import CHEAP, RUN, differences
from tests.support.ranks import IMPORTED
from tests.support.runs import FOREIGN_VARIABLES, read_rows, save_classes
from transfer.commands import finetune
from transfer.runs.folder import RUN_DIR_VARIABLE
from transfer.training.module import TransferModule

# Three epochs of three steps of two images on each of two processes; so few diverge at higher rates.
TWO = (
    *("--optim.lr", "1e-3"),
    *("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "2"),
    *("--trainer.max_epochs", "3", "--trainer.limit_train_batches", "3"),
)


@pytest.fixture(autouse=True)
def as_torchrun(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torchrun's own process has: its store is its own; and its signals, which it does not put back."""
    for name in FOREIGN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def train(folder: Path, argv: tuple[str, ...], killed: bool) -> int:
    """Run finetune as one process of torchrun; the second one is killed in its second epoch, once."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ.pop(RUN_DIR_VARIABLE, None)  # a server of forks that an earlier test has started may have it
    step = TransferModule.training_step

    def training_step(module: TransferModule, *arguments: Any) -> Any:
        if module.global_step == 4 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return step(module, *arguments)

    if killed:
        TransferModule.training_step = training_step  # type: ignore[assignment]
    return finetune.main(list(argv))


def launch(folder: Path, argv: tuple[str, ...], max_restarts: int) -> list[int]:
    """Return the exit statuses of two processes under torchrun."""
    folder.mkdir()
    multiprocessing.set_forkserver_preload(list(IMPORTED))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=max_restarts, start_method="forkserver", monitor_interval=0.1,
    )  # fmt: skip
    statuses = elastic_launch(config, train)(folder, argv, max_restarts > 0)
    return [statuses[rank] for rank in sorted(statuses)]


@pytest.mark.slow
def test_a_killed_process_of_torchrun_is_started_again_and_changes_no_number(tmp_path: Path) -> None:
    photos = save_classes(tmp_path / "photos", {"cat": 8, "dog": 8, "owl": 8})
    argv = (*CHEAP, str(photos), *TWO)
    assert launch(tmp_path / "whole", argv, max_restarts=0) == [0, 0]
    assert launch(tmp_path / "killed", argv, max_restarts=1) == [0, 0]
    assert [row["epoch"] for row in read_rows(tmp_path / "killed" / RUN)] == ["1", "2", "3"]
    assert differences(tmp_path / "killed" / RUN, tmp_path / "whole" / RUN) == []
