"""efficientnet-transfer evaluate gives the numbers of the run again, and refuses data that is not the run's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.runs import CHEAP, best_row, call, read_results, read_rows, save_classes, save_photo
from transfer.commands import evaluate, finetune

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cheap run on digits whose rate is so high that the last epoch need not be the best."""
    run_dir = tmp_path_factory.mktemp("evaluate") / "run"
    wild = ("--trainer.max_epochs", "4", "--optim.lr", "0.3", "--optim.schedule", "constant")
    assert call(finetune.main, *CHEAP, *wild, "--out_dir", run_dir) == 0
    return run_dir


def evaluated(run_dir: Path, tmp_path: Path, *argv: str | Path) -> dict[str, Any]:
    """What evaluate.py writes with --json."""
    file = tmp_path / "evaluated.json"
    assert call(evaluate.main, run_dir, "--num_workers", "0", "--json", file, *argv) == 0
    return json.loads(file.read_text())


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert call(evaluate.main, *argv, "--num_workers", "0") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    return captured.err.removeprefix("error: ").rstrip("\n")


def test_the_test_split_gives_the_numbers_of_results_json(run_dir: Path, tmp_path: Path) -> None:
    found, results = evaluated(run_dir, tmp_path), read_results(run_dir)
    assert found.keys() == {"run_dir", "split", "metrics", "per_class_accuracy"}
    assert (found["run_dir"], found["split"]) == (str(run_dir), "test")
    assert found["metrics"] == pytest.approx(results["metrics"]["test"], abs=1e-6)
    assert found["metrics"].keys() == results["metrics"]["test"].keys()
    assert found["per_class_accuracy"] == pytest.approx(results["per_class_accuracy"], abs=1e-6)


def test_the_table_shows_the_numbers(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(evaluate.main, run_dir, "--num_workers", "0") == 0
    printed = capsys.readouterr().out
    test = read_results(run_dir)["metrics"]["test"]
    for name, form in (("top1", "{:.2%}"), ("mean_per_class", "{:.2%}"), ("loss", "{:.4f}")):
        assert re.search(rf"│ {name} +│ +{re.escape(form.format(test[name]))} │", printed), printed


def test_val_gives_the_best_row_and_the_last_checkpoint_the_last_row(run_dir: Path, tmp_path: Path) -> None:
    rows = read_rows(run_dir)
    best, last = best_row(rows), best_row(rows[-1:])
    assert evaluated(run_dir, tmp_path, "--split", "val")["metrics"] == pytest.approx(best, abs=1e-6)
    found = evaluated(run_dir, tmp_path, "--split", "val", "--checkpoint", "last")["metrics"]
    assert found == pytest.approx(last, abs=1e-6)


def test_the_batch_size_changes_no_accuracy(run_dir: Path, tmp_path: Path) -> None:
    test = read_results(run_dir)["metrics"]["test"]
    found = evaluated(run_dir, tmp_path, "--batch_size", "7")["metrics"]  # 360 is no multiple of 7
    assert (found["top1"], found["top5"]) == (pytest.approx(test["top1"]), pytest.approx(test["top5"]))
    assert found["loss"] == pytest.approx(test["loss"], rel=1e-4)


def test_evaluation_writes_nothing_into_the_runs_folder_but_that_test_was_read(run_dir: Path, tmp_path: Path) -> None:
    run = shutil.copytree(run_dir, tmp_path / "run")
    (run / "test_reads.json").write_text('{"reads": 1}')
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    evaluated(run, tmp_path, "--split", "val")
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before
    evaluated(run, tmp_path)
    assert json.loads((run / "test_reads.json").read_text()) == {"reads": 2}
    changed = {path.name for path in run.iterdir() if path.stat().st_mtime_ns != before.get(path.name)}
    assert changed == {"test_reads.json"}


def test_a_run_folder_that_cannot_be_written_is_evaluated_with_a_warning(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(path: Path, content: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("transfer.runs.test_record.write_json", read_only)
    assert call(evaluate.main, run_dir, "--num_workers", "0") == 0
    assert "this reading of the test split could not be counted: [Errno 13]" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "test"])
def test_another_fingerprint_than_the_checkpoints_is_refused_for_train_and_said_for_others(
    split: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = shutil.copytree(run_dir, tmp_path / "run")
    content = torch.load(changed / "best.ckpt", weights_only=True)
    content["DataModule"]["fingerprint"][split] = "0" * 32
    torch.save(content, changed / "best.ckpt")
    if split == "train":
        message = refused(capsys, changed)
        assert message.startswith("digits: the data changed since the checkpoint (split: train)")
    else:
        with pytest.warns(UserWarning, match="digits: test changed since the checkpoint"):
            assert call(evaluate.main, changed, "--num_workers", "0") == 0


@pytest.fixture(scope="module")
def photo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on class folders in three splits, and these folders."""
    folder = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 8), ("val", 3), ("test", 5)):
        save_classes(folder / "photos" / split, {"dark": count, "light": count})
    own = ("--dataset", "folder", "--data_root", folder / "photos", "--data.batch_size", "4")
    assert call(finetune.main, *CHEAP, *own, "--out_dir", folder / "run") == 0
    return folder / "run", folder / "photos"


def test_data_may_have_moved_but_not_changed(
    photo_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, photos = photo_run
    moved = shutil.copytree(photos, tmp_path / "moved")
    found = evaluated(run_dir, tmp_path, "--data_root", moved)["metrics"]
    assert found == pytest.approx(read_results(run_dir)["metrics"]["test"], abs=1e-6)

    (moved / "val" / "dark" / "1.png").unlink()
    with pytest.warns(UserWarning, match="folder: val changed since the checkpoint"):
        assert evaluated(run_dir, tmp_path, "--data_root", moved)["metrics"] == found
    save_photo(moved / "train" / "dark" / "1.png", seed=99, value=0)
    message = refused(capsys, run_dir, "--data_root", moved)
    assert message.startswith("folder: the data changed since the checkpoint (split: train, val)")
    (moved / "test" / "light").rename(moved / "test" / "night")
    (moved / "train" / "light").rename(moved / "train" / "night")
    (moved / "val" / "light").rename(moved / "val" / "night")
    message = refused(capsys, run_dir, "--data_root", moved)
    assert "it has dark, light; the data has dark, night" in message


def test_a_split_that_the_data_lacks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("train", 6), ("val", 2)):
        save_classes(tmp_path / "photos" / split, {"dark": count, "light": count})
    own = ("--dataset", "folder", "--data_root", tmp_path / "photos", "--data.batch_size", "4")
    assert call(finetune.main, *CHEAP, *own, "--out_dir", tmp_path / "run") == 0
    assert refused(capsys, tmp_path / "run") == "--split test: the data has only train, val"


def test_a_folder_that_is_no_run_is_refused(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, tmp_path) == f"{tmp_path} is not a run: it has no config.yaml"
    shutil.copy(run_dir / "config.yaml", tmp_path)
    assert refused(capsys, tmp_path).startswith(f"{tmp_path} has no best.ckpt: the run stopped before its first")


def test_an_unknown_split_is_refused_by_the_command_line(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        call(evaluate.main, run_dir, "--split", "dev")
    assert end.value.code == 2
    assert "argument --split: invalid choice: 'dev'" in capsys.readouterr().err
