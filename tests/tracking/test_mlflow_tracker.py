"""MLflow: the same settings, metrics, tags and files in a local store, read back by its own client."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import TINY
from tests.support.runs import CHEAP, call, read_results
from tests.support.tracked import CONFUSIONS, WORST, facts, outcome
from transfer.commands import finetune
from transfer.errors import Interrupted, MissingData
from transfer.files import read_rows
from transfer.runs.predictor import load_run
from transfer.tracking.mistakes import Confusion
from transfer.tracking.registry import tracked
from transfer.tracking.tracker import Outcome

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of the store that is made where nothing is set: in the current folder, here a new one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MLFLOW")]:
            patch.delenv(name)
        patch.chdir(tmp_path_factory.mktemp("here"))
        yield mlflow.MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")


def only_run(store: Any, experiment: str = "efficientnet-transfer") -> Any:
    """The latest run."""
    found = store.get_experiment_by_name(experiment)
    return store.search_runs([found.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)[0]


def test_a_run_is_written_with_its_best_its_test_and_its_files(store: Any, tmp_path: Path) -> None:
    with tracked("mlflow", facts(tmp_path / "run", log_model=True, log_photos=True)) as tracker:
        for step, top1 in ((3, 0.75), (7, 0.25)):
            tracker.loggers[0].log_metrics({"val/top1": top1}, step=step)
            tracker.show_best({"top1": 0.75}, step)
        tracker.conclude(outcome(tmp_path / "run"))
    run = only_run(store)
    assert (run.info.run_name, run.info.status) == ("photos_lite0/1", "FINISHED")
    expected = {"dataset": "photos", "backbone": "lite0", "group": "cell_3"}
    assert {name: run.data.tags[name] for name in expected} == expected
    assert run.data.params == {
        "image_size": "48",
        "optim.lr": "0.02",
        "optim.sam_rho": "None",
        "fingerprint.train": "abc",
    }
    metrics = run.data.metrics
    assert (metrics["best/val/top1"], metrics["val/top1"], metrics["test/top1"]) == (0.75, 0.25, 0.5)
    (test,) = store.get_metric_history(run.info.run_id, "test/top1")
    assert (test.step, metrics["steps"]) == (11, 12)
    files = {
        file.path
        for folder in ("", "model", "test_worst_photos")
        for file in store.list_artifacts(run.info.run_id, folder)
    }
    assert {"report.html", "model/best.ckpt", "model/config.yaml", "model/results.json"} <= files
    assert {f"test_worst_photos/{name}" for name in ("photos.csv", "00.png", "01.png", "02.png")} <= files
    folder = Path(store.download_artifacts(run.info.run_id, "test_worst_photos"))
    rows = read_rows(folder / "photos.csv")
    assert [row["image"] for row in rows] == WORST and float(rows[0]["probability"]) == pytest.approx(0.97)
    rows = read_rows(Path(store.download_artifacts(run.info.run_id, "test_confusions.csv")))
    assert {(row["actual"], row["predicted"], int(row["images"])) for row in rows} == CONFUSIONS


def test_without_being_asked_no_photo_leaves_the_runs_folder(store: Any, tmp_path: Path) -> None:
    with tracked("mlflow", facts(tmp_path / "run")) as tracker:
        tracker.conclude(replace(outcome(tmp_path / "run", has_pictures=False), split="val"))
    run_id = only_run(store).info.run_id
    files = {file.path for folder in ("", "val_worst_photos") for file in store.list_artifacts(run_id, folder)}
    assert files == {"val_confusions.csv", "val_worst_photos", "val_worst_photos/photos.csv"}
    rows = read_rows(Path(store.download_artifacts(run_id, "val_worst_photos/photos.csv")))
    assert [(row["image"], row["picture"]) for row in rows] == [(name, "") for name in WORST]


def test_a_resumed_run_goes_on_as_the_same(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted), tracked("mlflow", facts(tmp_path / "run")) as tracker:
        tracker.loggers[0].log_metrics({"val/top1": 0.5}, step=3)
        raise Interrupted(15)
    first = only_run(store)
    assert first.info.status == "KILLED"
    monkeypatch.chdir(tmp_path)  # where no store is
    settings = {"image_size": 64, "trainer": {"devices": 2}}  # what may change
    with pytest.raises(RuntimeError), tracked("mlflow", facts(tmp_path / "run", settings=settings)) as tracker:
        assert only_run(store).info.status == "RUNNING"
        tracker.loggers[0].log_metrics({"val/top1": 0.75}, step=7)
        raise RuntimeError
    second = only_run(store)
    assert (second.info.run_id, second.info.status) == (first.info.run_id, "FAILED")
    history = store.get_metric_history(first.info.run_id, "val/top1")
    assert [(each.step, each.value) for each in history] == [(3, 0.5), (7, 0.75)]
    assert (second.data.params["image_size"], second.data.params["trainer.devices"]) == ("48", "2")
    assert not (tmp_path / "mlflow.db").exists()


def test_a_run_that_is_gone_is_begun_anew(store: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tracking.json").write_text(json.dumps({"mlflow": {"id": "0" * 32}}))
    with (
        pytest.warns(UserWarning, match="MLflow has no run 0{32} any more"),
        tracked("mlflow", facts(tmp_path / "run")),
    ):
        pass
    saved = json.loads((tmp_path / "run" / "tracking.json").read_text())["mlflow"]
    assert saved["id"] == only_run(store).info.run_id != "0" * 32


def test_the_address_of_a_server_is_not_kept_and_one_that_is_away_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MissingData, match=r"^`logger`=mlflow: .*127\.0\.0\.1"):
        tracked("mlflow", facts(tmp_path / "run")).__enter__()
    assert not (tmp_path / "run" / "tracking.json").exists()


def test_a_server_that_goes_away_costs_warnings(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: Any, **options: Any) -> None:
        raise mlflow.exceptions.MlflowException("no route\nto host")

    with pytest.warns(UserWarning) as caught, tracked("mlflow", facts(tmp_path / "run")) as tracker:
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", away)
        monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", away)
        tracker.loggers[0].log_metrics({"val/top1": 0.5}, step=3)
        tracker.loggers[0].finalize("success")
    said = [str(warning.message) for warning in caught]
    assert said == [
        "MLflow misses the metrics of a step: no route to host",
        "the end of the run could not be logged: MlflowException: no route to host",
    ]


def test_mlflow_reports_nothing_to_its_maker(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.telemetry import utils

    monkeypatch.setattr(utils, "_IS_IN_CI_ENV_OR_TESTING", False)
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    assert not utils.is_telemetry_disabled()
    with tracked("mlflow", facts(tmp_path / "run")):
        assert utils.is_telemetry_disabled()


def test_a_class_is_no_formula_in_a_table(store: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    results = outcome(tmp_path / "run").results
    with tracked("mlflow", facts(tmp_path / "run")) as tracker:
        tracker.conclude(Outcome(results, [Confusion("=HYPERLINK(1)", "<b>", 2)]))
    (row,) = read_rows(Path(store.download_artifacts(only_run(store).info.run_id, "test_confusions.csv")))
    assert row == {"actual": "'=HYPERLINK(1)", "predicted": "<b>", "images": "2"}


@pytest.mark.slow
def test_finetune_logs_to_mlflow(store: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = (*CHEAP, "--backbone", TINY, "--pretrained", "false", "--logger", "mlflow", "--log_model", "true")
    assert call(finetune.main, *words, "--trainer.max_epochs", "1", "--out_dir", run_dir) == 0
    results, run = read_results(run_dir), only_run(store)
    assert run.info.status == "FINISHED" and run.data.tags["backbone"] == results["backbone"]
    expected = {f"test/{name}": value for name, value in results["metrics"]["test"].items()}
    expected |= {f"best/val/{name}": value for name, value in results["metrics"]["val"].items()}
    assert {name: run.data.metrics[name] for name in expected} == pytest.approx(expected)
    known = {"image_size": "32", "num_parameters": str(results["num_parameters"]), "optim.lr": "0.02"}
    known["versions.torch"] = results["versions"]["torch"]
    known["fingerprint.train"] = results["splits"]["train"]["fingerprint"]
    assert {name: run.data.params[name] for name in known} == known
    model = Path(store.download_artifacts(run.info.run_id, "model"))
    loaded = load_run(model)
    assert loaded.class_names == tuple(str(k) for k in range(10)) and loaded.preprocessing.image_size == 32
