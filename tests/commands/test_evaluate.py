"""efficientnet-transfer evaluate gives the numbers of the run again, and refuses data that is not the run's."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import binomtest

import transfer
from tests.support.runs import (
    CHEAP,
    best_row,
    call,
    read_results,
    read_rows,
    save_classes,
    save_csv,
    save_photo,
    untrained_run,
)
from transfer.commands import evaluate, finetune
from transfer.networks.classifier import Classifier
from transfer.runs.predictor import load_run

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
    assert (found["run_dir"], found["split"], found["data"]) == (str(run_dir), "test", "digits")
    assert found["own_data"] and found["num_images"] == 360 and not found["skipped_images"]
    interval = binomtest(round(360 * found["metrics"]["top1"]), 360).proportion_ci(method="wilson")
    assert found["intervals"]["top1"] == pytest.approx({"low": interval.low, "high": interval.high})
    assert found["intervals"].keys() == {"top1", "top5", "mean_per_class"}
    assert found["metrics"] == pytest.approx(results["metrics"]["test"], abs=1e-6, rel=1e-5)
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
    assert evaluated(run_dir, tmp_path, "--split", "val")["metrics"] == pytest.approx(best, abs=1e-6, rel=1e-5)
    found = evaluated(run_dir, tmp_path, "--split", "val", "--checkpoint", "last")["metrics"]
    assert found == pytest.approx(last, abs=1e-6, rel=1e-5)


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


def test_the_runs_own_data_may_have_moved(photo_run: tuple[Path, Path], tmp_path: Path) -> None:
    run_dir, photos = photo_run
    moved = shutil.copytree(photos, tmp_path / "moved")
    found = evaluated(run_dir, tmp_path, "--data_root", moved)
    assert found["own_data"] and found["changed_splits"] == []
    assert found["metrics"] == pytest.approx(read_results(run_dir)["metrics"]["test"], abs=1e-6, rel=1e-5)
    assert not (run_dir / "evaluations").exists()


def test_a_test_split_that_was_repaired_is_evaluated_and_said_to_be_another(
    photo_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, photos = photo_run
    moved = shutil.copytree(photos, tmp_path / "moved")
    (moved / "test" / "dark" / "1.png").write_bytes(b"damaged")
    assert "1.png" in refused(capsys, run_dir, "--data_root", moved)
    with pytest.warns(UserWarning, match="test changed since the checkpoint"):
        found = evaluated(run_dir, tmp_path, "--data_root", moved, "--on_bad_image", "skip")
    assert found["own_data"] and found["changed_splits"] == ["test"] and found["num_images"] == 9
    assert [Path(image["name"]).name for image in found["skipped_images"]] == ["1.png"]
    printed = capsys.readouterr().out
    assert "without 1 image that cannot be read" in printed and "not the images of the run: test changed" in printed


def test_data_that_moved_are_asked_for(
    photo_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = shutil.copytree(photo_run[0], tmp_path / "run")
    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace(str(photo_run[1]), "/nowhere/photos"))
    message = refused(capsys, run_dir)
    assert message.startswith("--data_root /nowhere/photos: no such") and message.endswith("now with --data_root")


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("other") / "run", ["blue fish", "cat", "dog", "eel"])


OTHER = {"Blue_Fish": 3, "cat": 4, "dog ": 2, "zebra": 2}  # "eel" is missing, nobody knows "zebra"


def expected_on_other(run_dir: Path, photos: list[Path], labels: list[str]) -> tuple[float, dict[str, float]]:
    """Accuracy and accuracy of each class, of the library's predictions one by one."""
    answers = [prediction.class_name for prediction in load_run(run_dir).predict(photos)]
    right = np.array([answer == label for answer, label in zip(answers, labels, strict=True)])
    per_class = {name: right[[label == name for label in labels]].mean() for name in dict.fromkeys(labels)}
    return right.mean(), per_class


@pytest.mark.parametrize("layout", ["unsplit", "test", "csv", "parquet"])
def test_other_labelled_images_are_scored_by_class_name(layout: str, other_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(other_run, tmp_path / "run")
    images = save_classes(tmp_path / ("other/test" if layout == "test" else "other"), OTHER)
    files = sorted(images.rglob("*.png"))
    root = tmp_path / "other"
    if layout in ("csv", "parquet"):
        rows = [[str(file), file.parent.name] for file in files]
        root = save_csv(tmp_path / "other.csv", [["image", "label"], *rows])
        if layout == "parquet":
            root = tmp_path / "other.parquet"
            pq.write_table(pa.table({"image": [row[0] for row in rows], "label": [row[1] for row in rows]}), root)
    with pytest.warns(UserWarning) as warned:
        found = evaluated(run_dir, tmp_path, "--data_root", root)
    texts = " ".join(str(warning.message) for warning in warned)
    assert "no class 'zebra' (2 images)" in texts and "no image of eel" in texts
    names = {"Blue_Fish": "blue fish", "cat": "cat", "dog ": "dog"}
    kept = [file for file in files if file.parent.name in names]
    top1, per_class = expected_on_other(run_dir, kept, [names[file.parent.name] for file in kept])
    assert found["metrics"]["top1"] == pytest.approx(top1) and found["num_images"] == 9
    assert found["per_class_accuracy"] == pytest.approx({**per_class, "eel": None})
    assert (found["own_data"], found["absent_classes"], found["unknown_classes"]) == (False, ["eel"], {"zebra": 2})
    assert found["split"] == "all"
    folder = run_dir / "evaluations" / "1"
    assert json.loads((folder / "evaluation.json").read_text()) == found
    with np.load(folder / "predictions.npz") as arrays:
        assert sorted(arrays["path"].tolist()) == sorted(map(str, kept))
        assert arrays["probability"].sum(1) == pytest.approx(1.0, abs=1e-5)
        assert (arrays["label"] == arrays["prediction"]).mean() == pytest.approx(top1)


def test_a_run_on_a_named_dataset_is_scored_on_a_folder_by_that_name(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = save_classes(tmp_path / "glyphs", {"3": 2, "7": 3})
    found = transfer.evaluate(run_dir, data_root=root, out_dir=tmp_path / "out", num_workers=0)
    assert (found.num_images, found.own_data, found.data) == (5, False, str(root))
    assert set(found.absent_classes) == set("01245689")
    answers = [prediction.class_name for prediction in load_run(run_dir).predict(sorted(root.rglob("*.png")))]
    right = sum(answer == label for answer, label in zip(answers, ["3"] * 2 + ["7"] * 3, strict=True))
    assert found.metrics["top1"] == pytest.approx(right / 5)


def test_each_evaluation_gets_a_folder_and_the_runs_own_files_stay(other_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(other_run, tmp_path / "run")
    root = save_classes(tmp_path / "other", {"cat": 2, "dog": 2, "eel": 1, "blue fish": 1})
    before = {path.name: path.stat().st_mtime_ns for path in run_dir.iterdir()}
    for _ in range(2):
        evaluated(run_dir, tmp_path, "--data_root", root)
    assert evaluate.evaluate(run_dir, data_root=root, out_dir=tmp_path / "mine", num_workers=0).num_images == 6
    after = {path.name: path.stat().st_mtime_ns for path in run_dir.iterdir()}
    assert after.pop("evaluations") and after == before
    assert {path.name for path in (run_dir / "evaluations").iterdir()} == {"1", "2"}
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"evaluation.json", "predictions.npz"}


def test_what_cannot_be_scored_is_refused(other_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange = save_classes(tmp_path / "strange", {"x": 2, "y": 2})
    assert "(x, y) is one of the run's (blue fish, cat, dog, eel)" in refused(capsys, other_run, "--data_root", strange)
    split = save_classes(tmp_path / "split" / "train", {"cat": 2, "dog": 2}).parent
    save_classes(split / "val", {"cat": 1})
    assert "--split test: the data has only train, val" in refused(capsys, other_run, "--data_root", split)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    message = refused(capsys, other_run, "--data_root", split, "--out_dir", tmp_path / "full")
    assert "is not empty" in message
    assert "no such file or folder" in refused(capsys, other_run, "--data_root", tmp_path / "no")
    twins = untrained_run(tmp_path / "twins", ["a cat", "A_Cat"])
    either = save_classes(tmp_path / "either", {"a-cat": 2})
    assert "class 'a-cat' may be 'a cat' or 'A_Cat'" in refused(capsys, twins, "--data_root", either)


def test_labels_that_a_multilabel_run_does_not_know_are_left_out(tmp_path: Path) -> None:
    run_dir = untrained_run(tmp_path / "run", ["day", "sea", "tree"], threshold=0.5)
    rows = [["image", "labels"]]
    for index, labels in enumerate(["Day|sea", "sea|moon", "moon", "", "tree"]):
        rows.append([str(save_photo(tmp_path / f"{index}.png", index)), labels])
    with pytest.warns(UserWarning, match=r"no class 'moon' \(2 images\): these labels are left out"):
        found = evaluated(run_dir, tmp_path, "--data_root", save_csv(tmp_path / "table.csv", rows))
    assert found["num_images"] == 5 and found["unknown_classes"] == {"moon": 2}
    with np.load(run_dir / "evaluations" / "1" / "predictions.npz") as arrays:
        assert arrays["label"].astype(int).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
        assert (arrays["prediction"] == (arrays["probability"] >= 0.5)).all()
        exact = ((arrays["probability"] > 0.5) == arrays["label"]).all(1).mean()
    assert found["metrics"]["exact_match"] == pytest.approx(exact)
    assert found["intervals"].keys() == {"exact_match", "f1", "map", "map_11"}
    for name, interval in found["intervals"].items():
        assert 0 <= interval["low"] <= found["metrics"][name] <= interval["high"] <= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_an_evaluation_with_a_line_a_status_and_no_file(
    other_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    root = save_classes(tmp_path / "other", {"cat": 2, "dog": 2, "eel": 1, "blue fish": 1})
    forward, handler = Classifier.forward, signal.getsignal(number)

    def stopped(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), number)
        return forward(self, images)

    monkeypatch.setattr(Classifier, "forward", stopped)
    words = (
        "--data_root",
        root,
        "--num_workers",
        "0",
        "--json",
        tmp_path / "found.json",
        "--out_dir",
        tmp_path / "out",
    )
    assert call(evaluate.main, other_run, *words) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped by {number.name}"
    assert {path.name for path in tmp_path.iterdir()} == {"other"} and not (other_run / "evaluations").exists()
    assert signal.getsignal(number) is handler


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
