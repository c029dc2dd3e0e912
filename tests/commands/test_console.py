"""How commands end: another package in the way, too little memory, files that cannot be written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from transfer.commands import predict
from transfer.commands.console import check_folder, exit_status
from transfer.errors import BadValue, MissingData

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("is_file", [True, False])
def test_another_package_called_datamodules_is_named(tmp_path: Path, is_file: bool) -> None:
    other = tmp_path / ("datamodules.py" if is_file else "datamodules/__init__.py")
    other.parent.mkdir(exist_ok=True)
    other.write_text("class MNISTDataModule: ...\n")
    process = subprocess.run(
        [sys.executable, "-m", "transfer", "finetune", "--trainer.max_epochs", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2, process.stderr
    assert f"error: {other} is another package called datamodules" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "too little memory: lower --data.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory"), "too little memory: lower --data.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "too little memory: lower --data.batch_size"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a worker process of the loader"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_a_status(
    error: Exception, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    assert exit_status(command, predict.build_parser) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {reason}") and said.count("\n") == 1


def test_another_runtime_error_keeps_its_traceback() -> None:
    def command() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        exit_status(command)


def test_what_a_runtime_error_means_is_said_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from transfer.commands.console import exit_status\n"
        "def fail(text):\n    raise RuntimeError(text)\n"
        "print(exit_status(lambda: fail('bad allocation: out of memory')))\n"
        "exit_status(lambda: fail('a bug'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "2\n")
    assert done.stderr.startswith("error: too little memory: ") and "ImportError" not in done.stderr
    assert done.stderr.endswith("RuntimeError: a bug\n")


def test_a_file_to_write_needs_a_folder_and_is_none(tmp_path: Path) -> None:
    check_folder("out", tmp_path / "new.csv")
    with pytest.raises(BadValue, match="is a folder"):
        check_folder("out", tmp_path)
    with pytest.raises(MissingData, match="no such folder"):
        check_folder("out", tmp_path / "no" / "new.csv")
