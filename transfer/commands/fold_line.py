"""The live line of a fold's run, which is a process of its own: read from what it leaves in its folder."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from transfer.errors import UserError
from transfer.files import read_rows
from transfer.progress import live_line
from transfer.run_files import CONFIG, METRICS
from transfer.yaml_files import read_yaml

if TYPE_CHECKING:
    from tqdm import tqdm

_SECONDS = 1.0  # between two looks at the folder


class FoldLine:
    """Draws `fold 2 of 5, epoch 3/10` and the time that all folds still take, if stderr is a terminal.

    The line begins after the run's process, which would inherit it, and is gone when the block ends.

    Args:
        run_dir: folder of the fold's run.
        fold: the fold, from 0.
        num_folds: number of folds, one run after the other.
    """

    def __init__(self, run_dir: Path, fold: int, num_folds: int) -> None:
        self._run_dir, self._fold, self._num_folds = run_dir, fold, num_folds
        self._line: tqdm[Any] | None = None
        self._looked = 0.0

    def __enter__(self) -> FoldLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._line is not None:
            self._line.close()

    def draw(self) -> None:
        """Look where the run is, at most once a second, and draw that."""
        now = time.monotonic()
        if not sys.stderr.isatty() or (self._line is not None and now - self._looked < _SECONDS):
            return
        self._looked = now
        what = f"fold {self._fold + 1} of {self._num_folds}"
        if self._line is None:
            self._line = live_line(what, self._num_folds, self._fold)
        with suppress(UserError):  # the run has not written its files yet
            name, done, length = _place(self._run_dir)
            self._line.set_description_str(f"{what}, {name}", refresh=False)
            self._line.n = self._fold + done / length
        self._line.refresh()


def _place(run_dir: Path) -> tuple[str, int, int]:
    """Return where a run is, in words and as a part of its length.

    Raises:
        UserError: it has not written its configuration and its first validation yet.
    """
    trainer = read_yaml(run_dir / CONFIG).content["trainer"]
    row = read_rows(run_dir / METRICS)[-1]
    unit, length = ("step", trainer["max_steps"]) if trainer["max_steps"] > 0 else ("epoch", trainer["max_epochs"])
    done = int(row[unit])
    return f"{unit} {done}/{length}" if length > 0 else f"{unit} {done}", done if length > 0 else 0, max(length, 1)
