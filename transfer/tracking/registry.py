"""The trackers by their names in `logger`; another one is another row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

from transfer.errors import Interrupted, MissingData
from transfer.lightning import pl
from transfer.run_files import TENSORBOARD
from transfer.tracking.mlflow_tracker import MlflowTracker
from transfer.tracking.tracker import End, Facts, Tracker
from transfer.tracking.wandb_tracker import WandbTracker


class Row(NamedTuple):
    """A tracker.

    Attributes:
        begin: begins to follow a run.
        packages: what it imports; none of them must be missing.
        extra: the extra of this project that installs them; None: they come with it.
    """

    begin: Callable[[Facts], Tracker]
    packages: tuple[str, ...] = ()
    extra: str | None = None


def _tensorboard(facts: Facts) -> Tracker:
    return Tracker([pl.loggers.TensorBoardLogger(facts.run_dir, name="", version=TENSORBOARD)])


TRACKERS: Mapping[str, Row] = {
    "csv": Row(lambda facts: Tracker()),
    "tensorboard": Row(_tensorboard, ("tensorboard",), "tensorboard"),
    "wandb": Row(WandbTracker, ("wandb",)),
    "mlflow": Row(MlflowTracker, ("mlflow", "sqlalchemy", "alembic"), "mlflow"),
}


def check_installed(logger: str) -> None:
    """Check that a tracker's packages are installed, without importing them.

    Raises:
        MissingData: one is not.
    """
    row = TRACKERS[logger]
    for package in row.packages:
        if find_spec(package) is None:
            install = package if row.extra is None else f"'efficientnet-transfer[{row.extra}]'"
            raise MissingData(f"`logger`={logger}: {package} is not installed; run: pip install {install}")


@contextmanager
def tracked(logger: str, facts: Facts) -> Iterator[Tracker]:
    """Yield the tracker of that name, and tell it how the block ended.

    Raises:
        MissingData: the service cannot be reached or refuses the run.
    """
    tracker = TRACKERS[logger].begin(facts)
    end: End = "failed"
    try:
        yield tracker
        end = "finished"
    except (Interrupted, KeyboardInterrupt):
        end = "stopped"
        raise
    finally:
        tracker.close(end)
