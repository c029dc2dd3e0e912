"""efficientnet-transfer predict classifies the test images as the run did, in order, and names what it cannot read."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from datamodules import load_dataset
from datamodules.images.decode import decode_image
from tests.support.runs import CHEAP, ROOT, call, environment, read_results, save_csv, save_photo
from transfer.commands import finetune, predict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("predict") / "run"
    assert call(finetune.main, *CHEAP, "--out_dir", run_dir) == 0
    return run_dir


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """The test images of digits as PNG files, 0.png to 359.png, with their class names."""
    folder = tmp_path_factory.mktemp("images")
    data = load_dataset("digits")
    split = data.splits["test"]
    found = {}
    for index in range(len(split)):
        path = folder / f"{index}.png"
        Image.fromarray(decode_image(split.encoded(index))).save(path)
        found[path] = data.class_names[int(split.labels[index])]
    return found


@pytest.fixture(scope="module")
def folder(labels: dict[Path, str]) -> Path:
    return next(iter(labels)).parent


def predicted(run_dir: Path, out: Path, *argv: str | Path) -> list[dict[str, str]]:
    """The rows of predict.py, which must succeed."""
    assert call(predict.main, run_dir, *argv, "--num_workers", "0", "--out", out) == 0
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


def test_the_accuracy_is_that_of_results_json(
    run_dir: Path, folder: Path, labels: dict[Path, str], tmp_path: Path
) -> None:
    rows = predicted(run_dir, tmp_path / "rows.csv", folder)
    assert [row["image"] for row in rows] == [str(folder / f"{index}.png") for index in range(360)]
    assert list(rows[0]) == ["image", "class", "probability"]
    results = read_results(run_dir)
    right = [row["class"] == labels[Path(row["image"])] for row in rows]
    assert sum(right) / 360 == pytest.approx(results["metrics"]["test"]["top1"], abs=1e-6)
    for name, accuracy in results["per_class_accuracy"].items():
        of_class = [hit for hit, label in zip(right, labels.values(), strict=True) if label == name]
        assert sum(of_class) / len(of_class) == pytest.approx(accuracy, abs=1e-6)


def test_the_five_most_probable_give_the_top5_accuracy(
    run_dir: Path, folder: Path, labels: dict[Path, str], tmp_path: Path
) -> None:
    rows = predicted(run_dir, tmp_path / "rows.csv", folder, "--top_k", "5")
    names = ["class", "class_2", "class_3", "class_4", "class_5"]
    right = [labels[Path(row["image"])] in [row[name] for name in names] for row in rows]
    assert sum(right) / 360 == pytest.approx(read_results(run_dir)["metrics"]["test"]["top5"], abs=1e-6)


def test_all_classes_come_in_falling_order_and_sum_to_one(run_dir: Path, folder: Path, tmp_path: Path) -> None:
    rows = predicted(run_dir, tmp_path / "rows.csv", folder, "--top_k", "10")
    suffixes = ["", *(f"_{rank}" for rank in range(2, 11))]
    for row in rows:
        probabilities = [float(row[f"probability{suffix}"]) for suffix in suffixes]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-5)
        assert {row[f"class{suffix}"] for suffix in suffixes} == set("0123456789")


def test_json_lines_say_the_same_as_csv(
    run_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [folder / f"{index}.png" for index in range(9)]
    table = predicted(run_dir, tmp_path / "rows.csv", *images, "--top_k", "2")
    capsys.readouterr()
    assert call(predict.main, run_dir, *images, "--top_k", "2", "--format", "json", "--num_workers", "0") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{name: str(value) for name, value in row.items()} for row in rows] == table
    assert all(isinstance(row["probability"], float) for row in rows) and len(rows) == 9


def test_files_and_folders_keep_the_order_in_which_they_are_given(run_dir: Path, folder: Path, tmp_path: Path) -> None:
    nested = tmp_path / "nested"
    for name in ("b/2.png", "b/10.png", "a/x.png"):
        (nested / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "0.png", nested / name)
    given = [folder / "7.png", nested, folder / "3.png"]
    rows = predicted(run_dir, tmp_path / "rows.csv", *given)
    inside = [nested / name for name in ("a/x.png", "b/2.png", "b/10.png")]
    assert [row["image"] for row in rows] == [str(path) for path in (given[0], *inside, given[2])]


def test_the_batch_size_and_the_number_of_workers_change_nothing(run_dir: Path, folder: Path, tmp_path: Path) -> None:
    images = [folder / f"{index}.png" for index in range(20)]
    whole = predicted(run_dir, tmp_path / "whole.csv", *images, "--batch_size", "20")
    for argv in (("--batch_size", "1"), ("--batch_size", "7", "--num_workers", "2")):
        rows = predicted(run_dir, tmp_path / "rows.csv", *images, *argv)
        assert [(row["image"], row["class"]) for row in rows] == [(row["image"], row["class"]) for row in whole]
        expected = [float(row["probability"]) for row in whole]
        assert [float(row["probability"]) for row in rows] == pytest.approx(expected, abs=1e-5)


def test_unreadable_files_are_named_and_the_others_classified(
    run_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [shutil.copy(folder / f"{index}.png", tmp_path / f"{index}.png") for index in (0, 2)]
    empty, text = tmp_path / "1.png", tmp_path / "3.jpg"
    empty.write_bytes(b"")
    text.write_text("no image")
    assert call(predict.main, run_dir, tmp_path, "--batch_size", "1", "--num_workers", "0") == 1
    captured = capsys.readouterr()
    assert [row["image"] for row in csv.DictReader(io.StringIO(captured.out))] == [str(path) for path in good]
    lines = captured.err.splitlines()
    assert lines[0] == f"unreadable: {empty}: empty (0 bytes)"
    assert lines[1].startswith(f"unreadable: {text}: not an image") and len(lines) == 2


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert call(predict.main, *argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    return captured.err.removeprefix("error: ").rstrip("\n")


def test_what_cannot_be_classified_at_all_is_refused(
    run_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no image")
    assert refused(capsys, run_dir, empty).startswith(f"no image in {empty} or below it; image files end in .bmp, ")
    assert refused(capsys, run_dir, tmp_path / "no") == f"no such file or folder: {tmp_path / 'no'}"
    assert refused(capsys, empty, folder) == f"{empty} is not a run: it has no config.yaml"
    for top_k in ("0", "11"):
        message = refused(capsys, run_dir, folder, "--top_k", top_k)
        assert message == f"--top_k {top_k} (allowed: 1 to 10, the number of classes)"


def test_independent_labels_have_independent_probabilities(tmp_path: Path) -> None:
    rows = [["image", "labels"]]
    for index in range(24):
        save_photo(tmp_path / f"{index}.png", index)
        rows.append([f"{index}.png", ("day|sea", "sea", "day")[index % 3]])
    own = ("--dataset", "folder", "--data_root", save_csv(tmp_path / "table.csv", rows), "--data.batch_size", "8")
    several = ("--data.multilabel", "true", "--loss.name", "bce", "--out_dir", tmp_path / "run")
    assert call(finetune.main, *CHEAP, *own, *several) == 0
    (row,) = predicted(tmp_path / "run", tmp_path / "rows.csv", tmp_path / "0.png", "--top_k", "2")
    assert {row["class"], row["class_2"]} == {"day", "sea"}
    probabilities = [float(row["probability"]), float(row["probability_2"])]
    # Two classes, each near one half: an untrained softmax would make their sum one.
    assert all(0.0 < value < 1.0 for value in probabilities) and abs(sum(probabilities) - 1.0) > 1e-4


def test_as_a_user_types_it_only_the_rows_are_on_stdout(run_dir: Path, folder: Path) -> None:
    command = [sys.executable, "scripts/predict.py", str(run_dir), str(folder / "4.png"), "--num_workers", "0"]
    process = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0 and process.stderr == ""
    header, row = process.stdout.splitlines()
    assert header == "image,class,probability" and row.startswith(f"{folder / '4.png'},")
