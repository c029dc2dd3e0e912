"""W&B as its users expect it: read back from the files of an offline run, and from a server on loopback."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import wandb

from tests.support.bundles import TINY
from tests.support.runs import CHEAP, call, read_results
from tests.support.tracked import CONFUSIONS, WORST, facts, outcome, written_run
from tests.support.wandb_server import Server, wandb_server
from transfer.commands import finetune
from transfer.errors import Interrupted, MissingData
from transfer.run_files import RESULTS
from transfer.tracking.registry import tracked


@pytest.fixture(autouse=True)
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B without the user's settings, without a network, and with all its files in the test's folder."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb_own"))


@pytest.fixture
def fresh() -> Iterator[None]:
    """W&B reads its variables anew: it does once a process."""
    wandb.teardown()
    yield
    wandb.teardown()


def test_a_run_is_written_with_its_best_its_test_and_its_files(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with tracked("wandb", facts(run_dir, log_model=True, log_photos=True)) as tracker:
        for step, top1 in ((3, 0.5), (7, 0.75), (11, 0.25)):
            tracker.loggers[0].log_metrics({"val/top1": top1}, step=step)
            tracker.show_best({"top1": max(top1, 0.75 if step > 3 else 0.5)}, step)
        tracker.conclude(outcome(run_dir))
    written = written_run(run_dir)
    (run,) = written.runs
    assert (run.display_name, run.run_group, list(run.tags)) == ("photos_lite0/1", "cell_3", ["photos", "lite0"])
    assert written.config["optim"] == {"lr": 0.02, "sam_rho": None} and written.config["image_size"] == 48
    assert [(row["trainer/global_step"], row["val/top1"]) for row in written.history[:3]] == [
        (3, 0.5),
        (7, 0.75),
        (11, 0.25),
    ]
    # In a sweep the agent's server reads the summary: the best validation, not the last.
    assert (written.summary["val/top1"], written.summary["test/top1"], written.summary["steps"]) == (0.75, 0.5, 12)
    assert (written.history[3]["test/top1"], written.history[3]["trainer/global_step"]) == (0.5, 11)
    assert written.artifacts["report"] == ["report.html"]
    assert written.artifacts["model"] == ["best.ckpt", "config.yaml", "results.json"]
    assert written.exit_codes == [0] and written.has_stats
    media = run_dir.glob("wandb/offline-run-*/files/media/table/test/*.table.json")
    tables = {tuple(content["columns"]): content["data"] for content in (json.loads(p.read_text()) for p in media)}
    assert {tuple(row) for row in tables["Actual", "Predicted", "nPredictions"]} == CONFUSIONS
    assert sum(name.endswith(".png") for name in written.artifacts["run_table"]) == 1  # equal pictures are one
    worst = tables["photo", "image", "label", "prediction", "probability", "label_probability"]
    assert [row[1] for row in worst] == WORST and worst[0][2:4] == ["cat", "bee"]
    assert worst[0][4:] == pytest.approx([0.97, 0.01])


def test_without_being_asked_no_photo_leaves_the_runs_folder(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with tracked("wandb", facts(run_dir)) as tracker:
        tracker.conclude(replace(outcome(run_dir, has_pictures=False), split="val"))
    written = written_run(run_dir)
    assert "report" not in written.artifacts
    files = {path.name for path in run_dir.glob("wandb/offline-run-*/files/media/**/*.*")}
    assert files and {Path(name).suffix for name in files} == {".json"}
    assert {path.parent.name for path in run_dir.glob("wandb/*/files/media/table/*/*.json")} == {"val"}


def test_a_summary_shows_the_best_before_the_run_ends(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), tracked("wandb", facts(tmp_path / "run", log_model=False)) as tracker:
        for step, top1 in ((3, 0.75), (7, 0.25)):
            tracker.loggers[0].log_metrics({"val/top1": top1}, step=step)
            tracker.show_best({"top1": 0.75}, step)
        raise Interrupted(15)
    written = written_run(tmp_path / "run")
    assert written.summary["val/top1"] == 0.75 and written.history[-1]["val/top1"] == 0.25
    assert written.exit_codes == [1] and "model" not in written.artifacts


@pytest.mark.usefixtures("fresh")
def test_ones_own_names_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"NAME": "mine", "RUN_GROUP": "ours", "TAGS": "blue,lite0", "PROJECT": "theirs", "RUN_ID": "abc123"}
    for name, value in given.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with tracked("wandb", facts(tmp_path / "run", tags={"backbone": "lite0", "long": "b0@blocks=" + 100 * "r1"})):
        pass
    (run,) = written_run(tmp_path / "run").runs
    assert (run.display_name, run.run_group, run.project, run.run_id) == ("mine", "ours", "theirs", "abc123")
    assert set(run.tags) == {"blue", "lite0", ("b0@blocks=" + 100 * "r1")[:64]}


def test_a_run_that_is_open_in_this_process_is_used_and_left_open(tmp_path: Path) -> None:
    with wandb.init(project="mine", dir=tmp_path, config={"theirs": 1}) as own:
        with tracked("wandb", facts(tmp_path / "run")) as tracker:
            tracker.conclude(outcome(tmp_path / "run"))
        assert wandb.run is own and own.summary["val/top1"] == 0.75
        assert (own.config["theirs"], own.config["image_size"]) == (1, 48)
    assert len(written_run(tmp_path).runs) == 1


@pytest.mark.slow
def test_a_run_is_one_in_wandb_when_it_is_lengthened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    words = (*CHEAP, "--backbone", TINY, "--pretrained", "false", "--optim.sam_rho=None", "--logger=wandb")
    assert call(finetune.main, *words, "--log_model=True", "--trainer.max_epochs=1", "--out_dir", run_dir) == 0
    assert call(finetune.main, "--resume", run_dir, "--trainer.max_epochs", "2") == 0
    results, written = read_results(run_dir), written_run(run_dir, ends=2)
    first, second = written.runs
    assert first.run_id == second.run_id and second.resume
    assert json.loads((run_dir / "tracking.json").read_text())["wandb"]["id"] == first.run_id
    expected = {f"{split}/{name}": value for split, each in results["metrics"].items() for name, value in each.items()}
    assert {name: written.summary[name] for name in expected} == pytest.approx(expected)
    tests = [row["trainer/global_step"] for row in written.history if "test/top1" in row]
    assert tests == [3, 7] == [row["trainer/global_step"] for row in written.history if "val/top1" in row]
    known = {"image_size": 32, "global_batch_size": 64, "num_parameters": results["num_parameters"], "num_processes": 1}
    assert {name: written.config[name] for name in known} == known
    assert written.config["fingerprint"] == {name: split["fingerprint"] for name, split in results["splits"].items()}
    assert written.config["versions"] == results["versions"] and written.config["start"] == {"name": "random"}
    assert written.config["optim"]["sam_rho"] is None
    rows = [json.loads(p.read_text()) for p in run_dir.glob("wandb/*/files/media/table/test/confusion*")]
    assert {sum(count for _, _, count in table["data"]) for table in rows} == {results["splits"]["test"]["size"]}
    assert {"best.ckpt", "config.yaml", RESULTS} <= set(written.artifacts["model"])
    assert wandb.run is None and "Traceback" not in capsys.readouterr().err


@pytest.fixture
def server(fresh: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on loopback, at which this process is logged in."""
    with wandb_server() as served:
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_BASE_URL", served.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield served


def test_a_server_gets_one_run_with_its_summary_and_files(tmp_path: Path, server: Server) -> None:
    run_dir = tmp_path / "run"
    for step, top1 in ((3, 0.75), (7, 0.25)):  # stopped, then resumed
        with tracked("wandb", facts(run_dir, log_model=True, log_photos=True)) as tracker:
            tracker.loggers[0].log_metrics({"val/top1": top1}, step=step)
            tracker.show_best({"top1": 0.75}, step)
            if step == 7:
                tracker.conclude(outcome(run_dir))
    ((_, run),) = server.runs.items()
    assert (run.fields["displayName"], run.fields["groupName"]) == ("photos_lite0/1", "cell_3")
    assert run.config["optim"] == {"lr": 0.02, "sam_rho": None} and run.starts == 2
    assert [row["val/top1"] for row in run.history if "val/top1" in row] == [0.75, 0.25]
    assert (run.summary["val/top1"], run.summary["test/top1"], run.exit_codes) == (0.75, 0.5, [0, 0])
    kept = {one["artifactTypeName"]: one["committed"] for one in server.artifacts}
    assert kept == {"report": True, "model": True, "run_table": True}
    assert {"best.ckpt", "report.html"} <= {name.rpartition("/")[2] for name in server.uploads}


def test_a_refused_run_is_one_line(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(MissingData, match=r"^`logger`=wandb: .*API key.*WANDB_MODE=offline needs no account"):
        tracked("wandb", facts(tmp_path / "run")).__enter__()
