"""What the machine must have for the workers, and the failures that are no bugs."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules import build_datamodule
from datamodules.images.transforms import build_eval_transform
from datamodules.loading.predicting import PredictBatch, build_predict_loader
from datamodules.loading.resources import ExplainingLoader, check_shared_memory, check_workers
from tests.support.data import PREPROCESSING
from transfer.errors import BadValue, UserError, explain_failure

DiskUsage = namedtuple("DiskUsage", ("total", "used", "free"))


@pytest.fixture
def small_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DiskUsage(64_000_000, 0, 64_000_000))


def test_workers_that_would_fill_the_shared_memory_are_refused(small_shared_memory: None) -> None:
    check_shared_memory(8, 4_000_000)
    check_workers(None, 0, 10**12)
    with pytest.raises(BadValue, match=r"8 workers .* need 66 MB .* 64 MB.*--shm-size.*`num_workers`=0"):
        check_shared_memory(8, 4_100_000)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_loaders_with_worker_processes_are_compared_with_the_shared_memory(
    small_shared_memory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    side, batch = PREPROCESSING.image_size, 8000
    needed = f"{2 * 2 * batch * 3 * side**2 / 1e6:.0f} MB"
    data = build_datamodule("digits", preprocessing=PREPROCESSING, batch_size=batch, num_workers=2)

    def predict() -> DataLoader[PredictBatch]:
        return build_predict_loader([tmp_path / "a.png"], build_eval_transform(PREPROCESSING), batch, 2)

    with pytest.raises(BadValue, match=f"need {needed}"):
        data.train_dataloader()
    for build in (data.val_dataloader, data.test_dataloader, predict):
        if has_gpu:
            with pytest.raises(BadValue, match=f"need {needed}"):
                build()
        else:
            assert build().num_workers == 2  # threads, which share all memory


def test_workers_beyond_the_limit_of_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_workers(None, 4, 1)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (40, 40))
    with pytest.raises(BadValue, match=r"4 workers need about \d+ open files, and the limit is 40.*`num_workers`=0"):
        check_workers(None, 4, 1)


class Killed(Dataset[torch.Tensor]):
    """Its worker is killed by the system, as when memory runs out."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1)


class Failing(Killed):
    """Its images raise what the system says."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, index: int) -> torch.Tensor:
        raise self.error


def test_a_killed_worker_is_one_line() -> None:
    with pytest.raises(UserError, match="worker process of the loader was killed, most likely because"):
        list(ExplainingLoader(Killed(), num_workers=1))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_files_and_too_little_memory_are_one_line(num_workers: int) -> None:
    for error, reason in (
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (MemoryError(), "too little memory"),
        (RuntimeError("unable to mmap 64 bytes: Cannot allocate memory (12)"), "too little memory"),
    ):
        with pytest.raises(UserError, match=reason) as caught:
            list(ExplainingLoader(Failing(error), num_workers=num_workers))
        assert "\n" not in str(caught.value)
        with pytest.raises(type(error)):  # as torch leaves it
            list(DataLoader(Failing(error), num_workers=0))


def test_a_bug_keeps_its_own_error() -> None:
    assert explain_failure(RuntimeError("shapes differ")) is None
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(ExplainingLoader(Failing(RuntimeError("shapes differ"))))
