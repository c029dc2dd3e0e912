"""efficientnet-transfer predict classifies the test images as the run did, in order, and names what it cannot read."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from datamodules import load_dataset
from tests.support.runs import CHEAP, ROOT, call, environment, read_results, save_photo, untrained_run
from transfer.commands import finetune, predict
from transfer.commands.predict_summary import Summary
from transfer.errors import UserError
from transfer.images.decode import decode_image
from transfer.networks.classifier import Classifier
from transfer.predictions import read_prediction
from transfer.runs.predictor import load_run

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
    with open(out, encoding="utf-8", newline="") as file:
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
    assert lines[1].startswith(f"unreadable: {text}: not an image")
    assert lines[-4].startswith("2 images, mean probability ")
    assert lines[-3] == "2 of 4 images could not be read"
    assert lines[-2].startswith("probabilities calibrated on val: temperature")
    assert lines[-1] == f"next: efficientnet-transfer explain {run_dir} {tmp_path}"


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
    message = refused(capsys, run_dir, empty)
    assert message.startswith(f"no image in {empty} or below it, but 1 file") and "(1 .txt)" in message
    assert refused(capsys, run_dir, tmp_path / "no") == f"no such file or folder: {tmp_path / 'no'}"
    assert "no such folder (`efficientnet-transfer runs` lists" in refused(capsys, empty / "gone", folder)
    assert refused(capsys, empty, folder) == f"{empty} is not a run: it has no config.yaml"
    for top_k in ("0", "11"):
        message = refused(capsys, run_dir, folder, "--top_k", top_k)
        assert message == f"--top_k {top_k} (allowed: 1 to 10, the number of classes)"


@pytest.fixture(scope="module")
def labelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("several") / "run", ["day", "sea", "tree"], threshold=0.5)


def with_threshold(run_dir: Path, copy: Path, threshold: float | None) -> Path:
    shutil.copytree(run_dir, copy)
    content = torch.load(copy / "best.ckpt", weights_only=True)
    torch.save({**content, "threshold": threshold}, copy / "best.ckpt")
    return copy


def test_independent_labels_have_independent_probabilities(labelling: Path, tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "0.png", 0)
    (row,) = predicted(labelling, tmp_path / "rows.csv", photo, "--top_k", "2")
    assert {row["class"], row["class_2"]} <= {"day", "sea", "tree"} and row["class"] != row["class_2"]
    probabilities = [float(row["probability"]), float(row["probability_2"])]
    assert 1.0 > probabilities[0] > probabilities[1] > 0.0 and sum(probabilities) != pytest.approx(1.0, abs=1e-3)


def test_all_labels_from_the_threshold_on_are_given(labelling: Path, tmp_path: Path) -> None:
    photos = [save_photo(tmp_path / f"{index}.png", index) for index in range(3)]
    expected = [dict(prediction.top) for prediction in load_run(labelling).predict(photos, top_k=3)]
    threshold = sorted(value for values in expected for value in values.values())[4]  # it is itself given
    run_dir = with_threshold(labelling, tmp_path / "run", threshold)
    rows = predicted(run_dir, tmp_path / "rows.csv", *photos)
    for row, values in zip(rows, expected, strict=True):
        given = [name for name, value in values.items() if value >= threshold]
        assert row.keys() == {"image", "labels", "probabilities"} and row["labels"] == "|".join(given)
        assert row["probabilities"] == "|".join(str(round(values[name], 6)) for name in given)
    assert sum(len(row["labels"].split("|")) for row in rows if row["labels"]) == 5
    out = tmp_path / "rows.jsonl"
    assert call(predict.main, run_dir, *photos, "--format", "json", "--out", out, "--num_workers", "0") == 0
    for line, row in zip(out.read_text().splitlines(), rows, strict=True):
        assert "|".join(json.loads(line)["labels"]) == row["labels"]
    (none,) = predicted(with_threshold(labelling, tmp_path / "strict", 1.0), out, photos[0])
    assert (none["labels"], none["probabilities"]) == ("", "")
    assert load_run(with_threshold(labelling, tmp_path / "old", None)).threshold == 0.5


@pytest.mark.parametrize("threshold", ["0.5", -0.1, 1.5, float("nan")])
def test_a_threshold_that_is_none_is_refused(threshold: Any, labelling: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"best\.ckpt: .*threshold"):
        load_run(with_threshold(labelling, tmp_path / "run", threshold))


def test_no_prediction_is_made_of_numbers_that_are_not_finite(
    labelling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.csv"
    out.write_text("as it was")
    photos = [save_photo(tmp_path / "photos" / f"{index}.png", index) for index in range(3)]
    outputs = iter([torch.zeros(1, 3), torch.tensor([[0.0, float("nan"), 1.0]])])
    monkeypatch.setattr(Classifier, "forward", lambda self, images: next(outputs))
    assert call(predict.main, labelling, *photos, "--batch_size", "1", "--num_workers", "0", "--out", out) == 2
    assert f"error: {labelling}: the network's outputs are not finite" in capsys.readouterr().err
    assert out.read_text() == "as it was"  # no half-written file
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "photos"}


def test_pipes_and_devices_are_unreadable_and_other_files_are_counted(
    labelling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    save_photo(photos / "1.png", 1)
    os.mkfifo(photos / "2.png")
    (photos / "3.png").symlink_to("/dev/zero")
    for name in ("notes.txt", "more.txt", "raw.cr2"):
        (photos / name).write_text("no picture")
    with pytest.warns(UserWarning, match=r"left out 3 files .*2 \.txt, 1 \.cr2"):
        assert call(predict.main, labelling, photos, "--num_workers", "0") == 1
    printed = capsys.readouterr()
    assert [Path(row["image"]).name for row in csv.DictReader(io.StringIO(printed.out))] == ["1.png"]
    lines = printed.err.splitlines()
    assert [line.split(":")[1].strip() for line in lines[:2]] == [str(photos / "2.png"), str(photos / "3.png")]
    assert lines[-2:] == [
        "2 of 3 images could not be read",
        f"next: efficientnet-transfer explain {labelling} {photos}",
    ]


def test_an_unfinished_run_predicts_with_a_warning(labelling: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(labelling, tmp_path / "run")
    (run_dir / "results.json").unlink()
    with pytest.warns(
        UserWarning, match=r"run is unfinished \(it has no results\.json\): this is its best\.ckpt so far"
    ):
        predicted(run_dir, tmp_path / "rows.csv", save_photo(tmp_path / "0.png", 0))


def test_as_a_user_types_it_only_the_rows_are_on_stdout(run_dir: Path, folder: Path) -> None:
    command = [sys.executable, "scripts/predict.py", str(run_dir), str(folder / "4.png"), "--num_workers", "0"]
    process = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0
    said = ["probabilities calibrated on val", "next"]
    assert [line.partition(":")[0] for line in process.stderr.splitlines()] == said
    header, row = process.stdout.splitlines()
    assert header == "image,class,probability" and row.startswith(f"{folder / '4.png'},")


def test_a_terminal_gets_the_first_rows_and_a_program_all(
    run_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [folder / f"{index}.png" for index in range(23)]
    assert call(predict.main, run_dir, *images, "--num_workers", "0", "--top_k", "2") == 0
    piped = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(piped.out)))
    assert len(rows) == 23
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call(predict.main, run_dir, *images, "--num_workers", "0", "--top_k", "2") == 0
    shown = capsys.readouterr()
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown.out)
    lines = [line.split() for line in plain.splitlines() if line.strip()]
    assert lines[0] == ["image", "class", "probability", "class_2", "probability_2"]
    expected = [
        [row["image"], *(row[k] if k[0] == "c" else f"{float(row[k]):.1%}" for k in lines[0][1:])] for row in rows
    ]
    assert lines[2:-1] == expected[:20]
    assert " ".join(lines[-1]) == "... and 3 more: --out FILE.csv writes all, --format csv prints them"
    assert shown.err == piped.err
    assert call(predict.main, run_dir, *images, "--num_workers", "0", "--format", "csv", "--top_k", "2") == 0
    assert capsys.readouterr().out == piped.out


def test_the_summary_counts_what_the_rows_say(
    run_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predicted(run_dir, tmp_path / "rows.csv", folder)
    lines = [line.split() for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines[0] == ["class", "images", "share", "mean", "probability"]
    by_class: dict[str, list[float]] = {}
    for row in rows:
        by_class.setdefault(row["class"], []).append(float(row["probability"]))
    ranked = sorted(by_class.items(), key=lambda item: (-len(item[1]), item[0]))
    assert lines[2 : 2 + len(ranked)] == [
        [name, str(len(values)), f"{len(values) / 360:.1%}", f"{sum(values) / len(values):.1%}"]
        for name, values in ranked
    ]
    values = [value for values in by_class.values() for value in values]
    unsure = sum(value < 0.5 for value in values)
    said = " ".join(lines[2 + len(ranked)])
    assert said == f"360 images, mean probability {sum(values) / 360:.1%}, {unsure} unsure (below 50%)"
    least = min(rows, key=lambda row: float(row["probability"]))
    assert " ".join(lines[3 + len(ranked)]).startswith(f"least sure: {least['image']} ({least['class']} ")


def test_what_is_unknown_or_without_a_label_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    def said(summary: Summary) -> list[list[str]]:
        summary.print(Console(width=100, markup=False))
        return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip() and "─" not in line]

    one, several = Summary(), Summary(multilabel=True)
    for index, probabilities in enumerate(([0.9, 0.1], [0.45, 0.4], [0.3, 0.2])):
        found = read_prediction(np.array(probabilities, np.float32), ["cat", "[red]\x1b[31m"], 2)
        one.add(f"{index}.png", replace(found, unknown=index == 2))
        several.add(f"{index}.png", replace(found, labels=tuple(pair for pair in found.top if pair[1] >= 0.4)))
    assert said(one) == [
        ["class", "images", "share", "mean", "probability"],
        ["cat", "2", "66.7%", "67.5%"],
        ["3", "images,", "mean", "probability", "67.5%,", "1", "unsure", "(below", "50%)"],
    ]
    assert said(several) == [
        ["label", "images", "share", "mean", "probability"],
        ["cat", "2", "66.7%", "67.5%"],
        ["[red]\\x1b[31m", "1", "33.3%", "40.0%"],
        ["3", "images,", "mean", "probability", "58.3%,", "1", "without", "a", "label"],
    ]
    alone = Summary()
    alone.add("0.png", found)
    assert said(alone) == []


def test_a_table_is_for_the_terminal(labelling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, labelling, tmp_path, "--format", "table", "--out", tmp_path / "rows.csv")
    assert message.startswith("--format table with --out ") and not (tmp_path / "rows.csv").exists()


def test_names_from_files_are_no_formulas_and_no_commands(tmp_path: Path) -> None:
    names = ["=HYPERLINK(1)", "+1", "-1", "@a", "\uff1da", "\x1b[31mred", "a  b", "\udcff.jpg", "plain"]
    predict.write_output(
        iter([{"image": n, "class": n, "probability": -0.5} for n in names]), "csv", tmp_path / "a.csv", "|"
    )
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = ["'=HYPERLINK(1)", "'+1", "'-1", "'@a", "'\uff1da", "\\x1b[31mred", "a  b", "\\udcff.jpg", "plain"]
    assert [row["image"] for row in rows] == [row["class"] for row in rows] == expected
    assert {row["probability"] for row in rows} == {"-0.5"}
