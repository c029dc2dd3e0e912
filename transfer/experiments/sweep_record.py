"""What the runs of a sweep reached: sweep.json in its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transfer.files import read_object, write_json
from transfer.records import checked

SWEEP = "sweep.json"


@dataclass(frozen=True)
class SweepTrial:
    """What became of a run; see `transfer.experiments.search.Ended`.

    Attributes:
        settings: the dotted fields that the sweep varies, as the run had them.
    """

    number: int
    state: str
    value: float | None
    settings: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class SweepRecord:
    """The runs of a sweep.

    Attributes:
        metric: what is optimized, as `val/top1`.
        maximize: whether higher values are better.
        trials: the runs, the best first.
        best_command: the words after the program's name that train the best again, and test it; none without one.
    """

    metric: str
    maximize: bool
    trials: list[SweepTrial]
    best_command: list[str]

    def save(self, folder: Path) -> None:
        """Write sweep.json, whole or not at all."""
        write_json(folder / SWEEP, asdict(self))


def read_sweep_record(folder: Path) -> SweepRecord:
    """Return what sweep.json of a folder holds.

    Raises:
        UserError: it is missing or damaged.
    """
    return checked(read_object(folder / SWEEP), SweepRecord, folder / SWEEP)
