"""The line of a fold's run: read from the folder of another process, and on a terminal alone."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import yaml

from transfer.commands import fold_line
from transfer.commands.fold_line import FoldLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def write_run(run_dir: Path, row: str, **trainer: int) -> None:
    run_dir.mkdir(exist_ok=True)
    lengths = {"max_epochs": 10, "max_steps": -1} | trainer
    (run_dir / "config.yaml").write_text(yaml.safe_dump({"trainer": lengths}))
    (run_dir / "metrics.csv").write_text(f"epoch,step\n{row}\n")


def drawn(terminal: Terminal) -> list[tuple[str, str]]:
    """What each drawing says, and its share of all folds."""
    return re.findall(r"\r(fold [^%]+?) +(\d+)%", terminal.getvalue())


def test_it_says_the_fold_and_the_epoch_and_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_line, "_SECONDS", 0.0)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with FoldLine(tmp_path / "fold1", 1, 4) as line:
        line.draw()  # before the run has written anything
        write_run(tmp_path / "fold1", "3,12")
        line.draw()
        write_run(tmp_path / "fold1", "3,12", max_epochs=-1, max_steps=24)
        line.draw()
        write_run(tmp_path / "fold1", "3,12", max_epochs=-1)
        line.draw()
    expected = [("fold 2 of 4", "25"), ("fold 2 of 4, epoch 3/10", "32"), ("fold 2 of 4, step 12/24", "38")]
    assert list(dict.fromkeys(drawn(terminal))) == [*expected, ("fold 2 of 4, epoch 3", "25")]
    assert terminal.getvalue().rpartition("\r")[2] == "" and "\n" not in terminal.getvalue()


def test_in_a_file_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "fold0", "3,12")
    with FoldLine(tmp_path / "fold0", 0, 4) as line:
        line.draw()
    assert capsys.readouterr() == ("", "")
