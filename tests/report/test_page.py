"""The page: its numbers, its escaping, its size, and what it says where something is missing."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from tests.support.reported import HOSTILE, Page, written_run
from transfer.config.command_line import parse_config, parse_probe_config
from transfer.config.parsing import flatten
from transfer.config.schema import FinetuneConfig
from transfer.errors import DamagedFile
from transfer.report.calibration_section import reliability
from transfer.report.page import render_page
from transfer.report.photos import Facts, Photos, read_photos
from transfer.report.run_content import Progress, read_run_content
from transfer.report.settings import repeating_command, settings_table
from transfer.resampling import paired_bootstrap
from transfer.runs.results import FirstProbe, Metrics, SplitFacts

NAMES = ("cat", "dog", "owl")


def page_of(*folders: Path) -> Page:
    return Page(render_page([read_run_content(folder) for folder in folders]))


def shown(page: Page) -> str:
    return " ".join(page.text.split())


def table_with(page: Page, head: str) -> list[list[str]]:
    return next(rows for rows in page.tables if head in rows[0])


def test_the_matrix_and_the_classes_on_the_page_are_those_of_scikit_learn(tmp_path: Path) -> None:
    saved = written_run(tmp_path / "run", NAMES)
    page = page_of(tmp_path / "run")
    matrix = table_with(page, "owl")
    assert matrix[0] == ["class", *NAMES]
    found = [[0 if cell == "·" else int(cell) for cell in row[1:]] for row in matrix[1:]]
    assert found == confusion_matrix(saved.labels, saved.predictions).tolist()
    rows = {row[0]: row for row in table_with(page, "precision")[1:]}
    for name, recall in zip(NAMES, recall_score(saved.labels, saved.predictions, average=None), strict=True):
        assert rows[name][2].startswith(f"{100 * recall:.1f}%")
    assert list(rows) == sorted(rows, key=lambda name: float(rows[name][2].partition("%")[0]))
    wrong = (saved.labels != saved.predictions).sum()
    assert f"{wrong} of 60 val images are misclassified" in shown(page)


def test_the_verdict_says_on_what_and_against_what(tmp_path: Path) -> None:
    first = FirstProbe(penalty=1.0, metrics=Metrics(top1=0.9), engine="torch", seconds=1.0)
    written_run(tmp_path / "run", NAMES, results={"first_probe": first, "seen_images": {"val": 2}})
    text = shown(page_of(tmp_path / "run"))
    results = read_run_content(tmp_path / "run").results
    share, counts = results.val["top1"], results.splits["val"].class_counts
    assert f"{share:.1%} of 60 val images are classified correctly (95% interval 50.0% to 70.0%)." in text
    assert f"Always predicting “{NAMES[int(np.argmax(counts))]}” would reach {max(counts) / 60:.1%}." in text
    assert f"fine-tuning reaches {share:.1%}, the linear probe of the frozen network 90.0%" in text
    assert "Fine-tuning ended below the linear probe" in text and "2 of 60 val images were trained on" in text


@pytest.mark.parametrize("multilabel", [False, True])
def test_hostile_names_are_text(tmp_path: Path, multilabel: bool) -> None:
    written_run(tmp_path / "<b>run", HOSTILE, multilabel=multilabel)
    html = render_page([read_run_content(tmp_path / "<b>run")])
    page = Page(html)
    names = [name for name, _ in page.elements]
    assert names.count("script") == 1 and names.count("b") > 1
    assert len([name for name, _ in page.elements if name == "img"]) == html.count('<img src="data:image/jpeg;base64,')
    assert not [attributes for _, attributes in page.elements if any(key.startswith("on") for key in attributes)]
    for name in HOSTILE[:3]:
        assert name in page.text
    assert "\\u202egnp.exe" in page.text and "\u202e" not in html and "{{ x }}" in page.text


def test_nothing_comes_from_elsewhere_and_only_the_own_script_may_run(tmp_path: Path) -> None:
    written_run(tmp_path / "run", NAMES)
    html = render_page([read_run_content(tmp_path / "run")])
    outside = r"""(src|href)\s*=\s*["'](?!data:|#)|https?://(?!www\.w3\.org/(2000/svg|1999/xlink))|@import|url\((?!#)"""
    assert not re.search(outside, html)
    policy = next(a["content"] for name, a in Page(html).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_a_thousand_photos_of_a_thousand_classes_stay_small_and_say_what_is_left_out(tmp_path: Path) -> None:
    written_run(tmp_path / "run", [f"class {i}" for i in range(1000)], 1000, split="test")
    html = render_page([read_run_content(tmp_path / "run")])
    assert len(html.encode()) < 5 * 2**20 and html.count("data:image/jpeg") > 50
    text = shown(Page(html))
    assert "the 100 classes that fare worst of 1,000" in text
    assert "A matrix of 1,000 classes does not fit here" in text
    assert "The 15 largest and the 15 smallest of 1,000 classes" in text
    assert (
        "These are photos of the test split" in text and "The confusions and photos above are of the test split" in text
    )


def test_several_labels_an_absent_class_and_a_single_one(tmp_path: Path) -> None:
    written_run(tmp_path / "several", NAMES, multilabel=True)
    text = shown(page_of(tmp_path / "several"))
    assert "is the mean average precision on 60 val images" in text and "Confusions" not in text
    written_run(tmp_path / "absent", [*NAMES, "emu"], num_images=3)
    assert "no image" in shown(page_of(tmp_path / "absent"))
    written_run(tmp_path / "one", ["cat"])
    assert "None: every prediction is right." in shown(page_of(tmp_path / "one"))


def test_the_curves_show_what_was_measured_and_say_how(tmp_path: Path) -> None:
    written_run(tmp_path / "run", NAMES)
    assert "The accuracy on train" not in shown(page_of(tmp_path / "run"))
    (tmp_path / "run" / "metrics.csv").write_text(
        "epoch,step,lr,train/loss,train/top1,val/loss,val/top1,train/top1_batch_statistics,"
        "train/top1_running_statistics\n1,4,0.02,1.5,0.4,1.4,0.5,,\n2,8,0.01,1.1,0.7,1.2,0.6,0.8,0.25\n"
    )
    page = page_of(tmp_path / "run")
    charts = [attributes.get("aria-label") for name, attributes in page.elements if name == "svg"]
    expected = ["Loss", "Accuracy", "BatchNorm: last training batch", "Learning rate"]
    assert charts[:4] == expected
    text = shown(page)
    assert "train, top-1 accuracy val, top-1 accuracy" in text.replace("accuracyval", "accuracy val")
    assert "the batch's statistics" in text and "running statistics, as in evaluation" in text
    assert "with dropout: it may lie below that on val" in text and "--bn recompute" in text


def test_a_run_that_goes_on_has_no_verdict(tmp_path: Path) -> None:
    written_run(tmp_path / "<b>run", NAMES)
    content = read_run_content(tmp_path / "<b>run")
    for progress, reloads in ((Progress("40%", "epoch 2/5"), 1), (Progress("", "<i>", False, "<u>", "go <on>"), 0)):
        html = render_page([replace(content, progress=progress)])
        page = Page(html)
        assert sum(a.get("http-equiv") == "refresh" for _, a in page.elements) == reloads
        assert "Verdict" not in page.text and progress.sentence in page.text and progress.reason in page.text
        assert not {"i", "u", "on"} & {name for name, attributes in page.elements if not attributes}
    assert "refresh" not in render_page([content])


def test_a_run_of_the_first_version_has_a_page(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "runs" / "first_version_results.json"
    shutil.copy(source, tmp_path / "results.json")
    text = shown(page_of(tmp_path))
    top1 = json.loads(source.read_text())["metrics"]["test"]["top1"]
    assert f"{top1:.1%} of" in text and "Left out" not in text


def test_pictures_that_are_not_there_are_said_to_be_missing(tmp_path: Path) -> None:
    written_run(tmp_path / "run", NAMES)
    (tmp_path / "run" / "report_photos.safetensors").unlink()
    assert "This run kept no pictures of them" in shown(page_of(tmp_path / "run"))
    Photos(Facts("val", remarks=["/photos/cat/1.jpg: no such file"])).save(tmp_path / "run")
    assert "/photos/cat/1.jpg: no such file" in shown(page_of(tmp_path / "run"))


@pytest.mark.parametrize(
    "name",
    ["metrics.csv", "val_predictions.npz", "calibration.safetensors", "report_photos.safetensors", "doctor.json"],
)
def test_a_damaged_file_becomes_a_remark(tmp_path: Path, name: str) -> None:
    written_run(tmp_path / "run", NAMES)
    (tmp_path / "run" / name).write_bytes(b"a,b\n1\n")
    text = shown(page_of(tmp_path / "run"))
    assert f"Left out: {tmp_path / 'run' / name}" in text
    assert "of 60 val images are classified correctly" in text


def test_the_doctors_findings_beside_the_data_are_shown(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    finding = {
        "severity": "warning",
        "check": "blank",
        "message": "2 images of a single colour",
        "images": [],
        "count": 2,
    }
    (photos / "doctor.json").write_text(json.dumps({"findings": [finding]}))
    config = FinetuneConfig(dataset="folder", data_root=str(photos)).to_dict()
    written_run(tmp_path / "run", NAMES, results={"config": config})
    assert "warning: 2 images of a single colour" in shown(page_of(tmp_path / "run"))


def test_runs_side_by_side_differ_by_what_a_paired_bootstrap_says(tmp_path: Path) -> None:
    test = {"splits": {"test": SplitFacts(size=60, fingerprint="same", class_counts=[20, 20, 20])}}
    a, b = (written_run(tmp_path / n, NAMES, split="test", results=test) for n in "ab")
    worse = np.where(np.arange(60) < 9, (a.labels + 1) % 3, b.predictions)
    np.savez(tmp_path / "b" / "test_predictions.npz", label=b.labels, prediction=worse, class_name=np.array(NAMES))
    written_run(tmp_path / "c", NAMES, split="test", seed=1)
    page = page_of(*(tmp_path / name for name in "abc"))
    rows = table_with(page, "test, less the first run")
    found = paired_bootstrap(a.labels, worse, a.predictions)
    assert found.value < 0
    points = f"{100 * found.value:+.1f} points{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    assert [row[-1] for row in rows[1:]] == ["", points, "other images"]
    assert [row[0].rpartition("/")[2] for row in rows[1:]] == ["a", "b", "c"]


def test_reliability_bins_hold_every_answer_once(tmp_path: Path) -> None:
    saved = written_run(tmp_path / "run", NAMES)
    calibration = read_run_content(tmp_path / "run").calibration
    assert calibration is not None and saved.probabilities is not None
    said, right = reliability(calibration, 1.0)
    confidence, is_right = saved.probabilities.max(1), saved.predictions == saved.labels
    bins = [(confidence * 15).astype(int) == number for number in range(15)]
    assert said == pytest.approx([confidence[held].mean() for held in bins if held.any()], abs=1e-6)
    assert right == pytest.approx([is_right[held].mean() for held in bins if held.any()])


@pytest.mark.parametrize(
    "words",
    [
        ["--data_root", "my photos", "--optim.lr", "0.003", "--data.label_separator", ";", "--ema_half_life", "0.1"],
        ["--dataset", "digits", "--backbone", "b0@phi=1.5", "--freeze", "until-epoch 1", "--pretrained", "false"],
    ],
)
def test_the_command_repeats_the_run(words: list[str]) -> None:
    config, _ = parse_config(words)
    program, verb, *again = shlex.split(repeating_command(config.to_dict(), is_probe=False))
    assert (program, verb) == ("efficientnet-transfer", "finetune") and parse_config(again)[0] == config
    defaults = flatten(FinetuneConfig().to_dict())
    differ = {name: value for name, value in flatten(config.to_dict()).items() if value != defaults[name]}
    rows = settings_table(config.to_dict(), is_probe=False)
    assert {row.name for row in rows} == differ.keys() and len(rows) >= 4
    assert {row.name: row.value for row in rows}.items() >= {words[-2].removeprefix("--"): words[-1]}.items()


def test_the_command_repeats_the_probe() -> None:
    words = ["--data_root", "photos", "--views", "3", "--data.per_class", "2"]
    config, own = parse_probe_config(words)
    recorded: dict[str, Any] = {**config.to_dict(), **vars(own)}
    assert parse_probe_config(shlex.split(repeating_command(recorded, is_probe=True))[2:]) == (config, own)


def test_kept_pictures_come_back_and_other_files_are_refused(tmp_path: Path) -> None:
    kept = Photos(Facts("val", "CAM", {"3": "cat"}, ["dog"]), {3: b"abc", 12: b"d"}, {3: b"ef"}, [b"gh"])
    kept.save(tmp_path)
    assert read_photos(tmp_path) == kept
    (tmp_path / "report_photos.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DamagedFile, match="damaged, or not the photos of a report"):
        read_photos(tmp_path)
