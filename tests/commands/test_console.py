"""What only a process of its own shows of the console."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from transfer.commands.console import exit_status

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
        (MemoryError(), "memory ran out"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a worker process of the loader"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_a_status(
    error: Exception, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    assert exit_status(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {reason}") and said.count("\n") == 1
