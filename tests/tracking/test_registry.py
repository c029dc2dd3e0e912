"""The table of trackers, what is missing, and what of a run is said under which name."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.support.runs import refused
from tests.support.tracked import facts, outcome
from transfer.config.schema import Logger
from transfer.errors import DamagedFile
from transfer.lightning import pl
from transfer.runs.title import GROUP_VARIABLE, NAME_VARIABLE, folder_title, run_group, run_name
from transfer.tracking.identity import read_identity, save_identity
from transfer.tracking.registry import TRACKERS, tracked
from transfer.tracking.tracker import Tracker


def test_every_logger_of_the_schema_has_a_row() -> None:
    assert set(get_args(Logger)) == TRACKERS.keys()


@pytest.mark.parametrize(
    ("logger", "package", "install"),
    [
        ("wandb", "wandb", "pip install wandb"),
        ("mlflow", "mlflow", "pip install 'efficientnet-transfer[mlflow]'"),
        ("mlflow", "sqlalchemy", "pip install 'efficientnet-transfer[mlflow]'"),
        ("tensorboard", "tensorboard", "pip install 'efficientnet-transfer[tensorboard]'"),
    ],
)
def test_a_missing_package_is_one_line_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logger: str, package: str, install: str
) -> None:
    find_spec = util.find_spec
    without = lambda name, *arguments: None if name == package else find_spec(name, *arguments)  # noqa: E731
    monkeypatch.setattr("transfer.tracking.registry.find_spec", without)
    message = refused(capsys, "--logger", logger)
    assert message == f"--logger {logger}: {package} is not installed; run: {install}"


@pytest.mark.parametrize("name", ["log_model", "log_photos"])
def test_what_no_service_would_get_is_refused(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert refused(capsys, f"--{name}", "true") == f"--{name} true with --logger csv: unused (allowed: wandb, mlflow)"


def test_a_service_that_refuses_the_end_of_a_run_costs_a_warning(tmp_path: Path) -> None:
    class Refuses(pl.loggers.logger.DummyLogger):
        def log_metrics(self, *arguments: Any, **options: Any) -> None:
            raise ConnectionError("no\nroute to host")

    (tmp_path / "run").mkdir()
    with pytest.warns(UserWarning, match="not all of the run could be logged: ConnectionError: no route to host"):
        Tracker([Refuses()]).conclude(outcome(tmp_path / "run"))


def test_test_is_logged_at_the_last_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracked("tensorboard", facts(tmp_path / "run")) as tracker:
        tracker.conclude(outcome(tmp_path / "run"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("test/top1")] == [(11, 0.5)]


def test_a_run_remembers_what_it_is_at_each_service(tmp_path: Path) -> None:
    assert read_identity(tmp_path, "wandb") == {}
    save_identity(tmp_path, "wandb", {"id": "a"})
    save_identity(tmp_path, "mlflow", {"id": "b"})
    assert (read_identity(tmp_path, "wandb"), read_identity(tmp_path, "mlflow")) == ({"id": "a"}, {"id": "b"})
    (tmp_path / "tracking.json").write_text('{"wandb": {"id": 3}}')
    with pytest.raises(DamagedFile, match=r"tracking\.json: damaged: wandb is"):
        read_identity(tmp_path, "wandb")


def test_names_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (NAME_VARIABLE, GROUP_VARIABLE, "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    assert (
        folder_title(tmp_path / "photos_lite0" / "3") == "photos_lite0/3" == run_name(tmp_path / "photos_lite0" / "3")
    )
    assert folder_title(tmp_path / "mine") == "mine" and run_group() is None
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    assert run_group() == "s1"
    monkeypatch.setenv(GROUP_VARIABLE, "cell_3")
    monkeypatch.setenv(NAME_VARIABLE, "cell_3/final")
    assert (run_group(), run_name(tmp_path / "final")) == ("cell_3", "cell_3/final")
