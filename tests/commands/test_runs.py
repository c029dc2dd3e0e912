"""efficientnet-transfer runs: every run once, ranked among runs of the same images, and none stops the list."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import call
from transfer.commands import runs
from transfer.config.command_line import parse_config, save_config
from transfer.locks import held
from transfer.runs.listing import list_runs


def save_finished(path: Path, test: float | None, val: float, images: str = "a", **fields: Any) -> Path:
    """A finished run on 100 val and 200 test images, `images` of which there are."""
    metrics = {"val": {"top1": val, "loss": 1.0}} | ({} if test is None else {"test": {"top1": test, "loss": 1.0}})
    intervals = {"test": {"top1": {"low": 0.25, "high": 0.75}}}
    splits = {
        name: {"size": size, "fingerprint": f"{images}-{name}", "class_counts": [size]}
        for name, size in (("val", 100), ("test", 200))
    }
    content = {"command": [], "dataset": "folder", "backbone": "b0", "metrics": metrics, "intervals": intervals}
    content |= {"splits": splits, "config": {"data_root": "my photos"}, "image_size": 64, "wall_seconds": 75.0}
    path.mkdir(parents=True)
    (path / "results.json").write_text(json.dumps(content | fields))
    return path


def save_unfinished(path: Path, *files: str) -> Path:
    path.mkdir(parents=True)
    save_config(parse_config(["--dataset", "digits", "--backbone", "lite1"])[0], path / "config.yaml")
    for name in files:
        (path / name).write_text("epoch,val/top1\n1,0.5\n2,0.6\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs of the same images, one of others, and four that did not finish."""
    root = tmp_path / "runs"
    save_finished(root / "photos" / "1", 0.5, 0.9)
    save_finished(root / "photos" / "2", 0.75, 0.6, seen_images={"test": 3})
    save_finished(root / "photos" / "10", 0.99, 0.2, images="b", config={"data_root": "my photos", "method": "lpft"})
    save_unfinished(root / "digits" / "1", "last.ckpt", "metrics.csv")
    save_unfinished(root / "digits" / "2")
    (save_unfinished(root / "digits" / "3") / "results.json").write_text("{")
    (root / "digits" / "4").mkdir()
    (root / "digits" / "4" / "best.ckpt").write_text("")
    return root


def listed(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert call(runs.main, *argv) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_runs_of_other_images_are_in_a_table_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in listed(capsys, folder).splitlines() if line.strip()]
    titles = [" ".join(line) for line in lines if "images" in line and "on" in line and "trained" not in line]
    assert titles == [
        "my_photos: top1 on 100 val and 200 test images",
        "my_photos: top1 on 100 val and 200 test images; other images than above",
    ]
    rows = [line for line in lines if line[0].startswith(str(folder))]
    assert [Path(row[0]).relative_to(folder).as_posix() for row in rows] == [
        *("photos/2", "photos/1", "photos/10"),
        *("digits/1", "digits/2", "digits/3", "digits/4"),
    ]
    assert rows[0][1:9] == ["b0", "64", "full", "60.0%", "75.0%", "(25.0-75.0)", "1", "m"]
    assert rows[0][-6:] == ["3", "test", "images", "were", "trained", "on"]
    assert rows[2][3] == "lpft"
    assert [row[1] for row in rows[3:]] == ["interrupted", "failed", "damaged", "damaged"]
    assert rows[3][2:5] == ["digits", "lite1", "full"] and rows[3][-4:] == ["epoch", "2", "of", "10"]
    assert f"{folder / 'digits' / '4'} is not a run: it has no config.yaml" in " ".join(rows[6])


@pytest.mark.parametrize(
    ("sort", "order"),
    [("val", ["1", "2", "10"]), ("time", ["1", "2", "10"]), ("ended", ["2", "1", "10"]), ("name", ["1", "2", "10"])],
)
def test_the_order_is_within_the_images(
    folder: Path, sort: str, order: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, seconds in (("1", 10), ("2", 20), ("10", 90)):
        os.utime(folder / "photos" / number / "results.json", (seconds, seconds))
    rows = json.loads(listed(capsys, folder / "photos", "--sort", sort, "--format", "json"))
    assert [Path(row["run_dir"]).name for row in rows] == order


def test_a_program_reads_the_same_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = json.loads(listed(capsys, folder, folder / "photos" / "1", "--format", "json"))
    assert len(objects) == 7  # the run that is given twice is there once
    first = objects[0]
    assert first["test"] == {"value": 0.75, "low": 0.25, "high": 0.75, "num_images": 200, "fingerprint": "a-test"}
    assert (first["state"], first["data"], first["seconds"], first["val"]["low"]) == (
        "finished",
        "my_photos",
        75.0,
        None,
    )
    assert objects[3]["test"] is None and objects[3]["state"] == "interrupted"
    rows = list(csv.DictReader(io.StringIO(listed(capsys, folder, "--format", "csv"))))
    for row, entry in zip(rows, objects, strict=True):
        assert (row["run_dir"], row["state"], row["note"]) == (entry["run_dir"], entry["state"], entry["note"])
        assert row["test"] == ("" if entry["test"] is None else str(entry["test"]["value"]))
        assert row["val_fingerprint"] == ("" if entry["val"] is None else entry["val"]["fingerprint"])


def test_a_run_that_a_process_holds_is_running(tmp_path: Path) -> None:
    run_dir = save_unfinished(tmp_path / "run", "last.ckpt")
    with held(run_dir / "run.lock"):
        (found,) = list_runs([tmp_path])
    assert found.state == "running"
    (found,) = list_runs([tmp_path])  # the file of the lock is still there, as after a kill
    assert found.state == "interrupted" and found.note == "before its first validation"


def test_folds_share_a_table_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fold in range(3):
        path = save_finished(tmp_path / f"fold{fold}", 0.5, 0.5, config={"folds": 3, "fold": fold}) / "results.json"
        content = json.loads(path.read_text())
        content["splits"]["val"]["fingerprint"] = f"fold {fold}"
        path.write_text(json.dumps(content))
    printed = listed(capsys, tmp_path)
    assert printed.count("on 100 val and 200 test images; val is a fold, another for each") == 1
    assert re.findall(r"full, fold (\d/3)", printed) == ["0/3", "1/3", "2/3"]


def test_names_are_no_commands_of_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_finished(tmp_path / "=1[red]\x1b[31m", 0.5, 0.5, backbone="[bold]\x1b]0;x\x07")
    printed = listed(capsys, tmp_path)
    assert "\x1b" not in printed and "\x07" not in printed and "[red]\\x1b[31m" in printed and "[bold]" in printed
    assert "\x1b" not in listed(capsys, tmp_path, "--format", "csv")


def test_no_folder_and_no_run_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folders, message in (
        ([], "there is no folder runs here"),
        ([tmp_path / "no"], "no such folder"),
        ([tmp_path], f"no run in {tmp_path} or below"),
    ):
        assert call(runs.main, *folders) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: ") and message in captured.err
