"""What only a process of its own shows of the console."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
