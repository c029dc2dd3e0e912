"""The page about a choice: its figures, what would help most, and what it says where a file is missing or damaged."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from tests.support.chosen import DIFFERENCE, choice_of, written_choice
from tests.support.reported import HOSTILE, Page, written_run
from tests.support.runs import call
from transfer.commands import report
from transfer.commands.choose.curve import LearningCurve, Point
from transfer.commands.choose.page import read_choice_content
from transfer.commands.choose.report import choose_words, lpft_words
from transfer.commands.choose.sections import find_gains, render_choice
from transfer.config.command_line import parse_choose_config
from transfer.files import write_json
from transfer.records import Interval

NAMES = ("cat", "dog", "owl")


def page_of(folder: Path) -> Page:
    return Page(render_choice(read_choice_content(folder, folder)))


def shown(page: Page) -> str:
    return " ".join(page.text.split())


def test_the_page_shows_the_decision_its_reasons_and_the_networks(tmp_path: Path) -> None:
    written_choice(tmp_path / "choice", NAMES)
    page = page_of(tmp_path / "choice")
    text = shown(page)
    assert "60.0% top-1 accuracy in 3-fold cross-validation: take lite0 at 64 px, with a linear probe." in text
    assert "lite0 at 64 px, linear probe: 60.0% (55.0% to 65.0%, 3-fold)." in text
    assert "lite1 at 64 px is the most accurate" in text and "lite2 at 64 px: parameters 4.815 M" in text
    assert "On test, which took no part in the choice, it reaches 70.0%." in text
    networks = next(rows for rows in page.tables if "multiply-adds" in rows[0])
    assert [row[:4] for row in networks[1:]] == [
        ["lite0taken", "64", "60.0%55.0% to 65.0%", "5.0"],
        ["lite1on the front", "64", "63.0%58.0% to 68.0%", "8.0"],
        ["b0", "64", "50.0%45.0% to 55.0%", "9.0"],
    ]
    assert networks[1][4:] == ["3.39 M", "31.4 M"]
    methods = next(rows for rows in page.tables if rows[0][0] == "method")
    assert [row[1] for row in methods[1:]] == ["60.0%", "61.0%50.0% to 70.0%", "+1.0 points-4.0 to +6.0"]
    assert "Further folds were not tried: the fold took longer than predicted" in text
    assert "LP-FT on folds2 min" in text and "in all2 min 25 s of 15 min" in text
    assert "3 photos, the likeliest first" in text and "no picture kept" in text and "rather cat 90.0%" in text


def test_what_would_help_most_comes_first_with_its_interval_and_its_price(tmp_path: Path) -> None:
    gains = find_gains(choice_of(60))
    assert [(gain.what, round(100 * gain.value, 1), gain.price) for gain in gains] == [
        ("twice the photos", 5.0, "60 more photos"),
        ("lite1 at 64 px instead", 3.0, "1.60 times the latency"),
        ("four times the photos", 2.0, "180 more photos"),
        ("fine-tuning (LP-FT)", 1.0, "training of about 1 min"),
    ]
    assert (gains[1].interval.low, gains[1].interval.high) == (DIFFERENCE.low, DIFFERENCE.high)
    assert find_gains(replace(choice_of(60), chosen=1, method="lpft", learning_curve=None)) == []
    written_choice(tmp_path / "choice", NAMES, learning_curve=None)
    text = shown(page_of(tmp_path / "choice"))
    assert "dog fares worst: 20.0% (8.1% to 41.6%) of 20 photos." in text
    assert "3 photos may be mislabelled" in text and "--learning_curve true does" in text
    curve = LearningCurve("logistic", 5, [Point(20, 0.5, Interval(0.4, 0.6))], [], "one size", None)
    nothing = choice_of(60, comparisons=[], fine_tuning=None, weakest_class=None, learning_curve=curve)
    write_json(tmp_path / "choice" / "choose.json", nothing.to_dict())
    assert "What would help most" not in shown(page_of(tmp_path / "choice"))


@pytest.mark.parametrize("method", ["probe", "lpft"])
def test_confusions_and_classes_are_those_of_the_out_of_fold_answers(tmp_path: Path, method: str) -> None:
    labels, logits = written_choice(tmp_path / "choice", NAMES, method=method)
    if method == "lpft":  # of the folds that were tried alone
        with np.load(tmp_path / "choice" / "out_of_fold.npz") as arrays:
            labels, logits = labels[30:], arrays["lpft_lite0_64"][30:]
    page = page_of(tmp_path / "choice")
    matrix = next(rows for rows in page.tables if rows[0] == ["class", *NAMES])
    found = [[0 if cell == "·" else int(cell) for cell in row[1:]] for row in matrix[1:]]
    assert found == confusion_matrix(labels, logits.argmax(1)).tolist()
    assert f"On {len(labels)} cross-validated images." in shown(page)
    rows = {row[0]: row for row in next(rows for rows in page.tables if "precision" in rows[0])}
    for name, recall in zip(NAMES, recall_score(labels, logits.argmax(1), average=None), strict=True):
        assert rows[name][2].startswith(f"{100 * recall:.1f}%")
    reached = {
        "lpft": "61.0% top-1 accuracy in 2 of 3 folds, 60 images: take lite0 at 64 px, fine-tuned",
        "probe": "60.0% top-1 accuracy in 3-fold cross-validation: take lite0 at 64 px, with a linear probe",
    }
    assert reached[method] in shown(page)


def test_hostile_names_are_text_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    evil = HOSTILE[0]
    folder = tmp_path / "<b>choice"
    written_choice(folder, HOSTILE, reasons=[evil], sentence=evil, weakest_class=evil, folds_left_out=evil)
    written_run(folder / "winner", NAMES)
    (folder / "winner" / "report.html").write_text("a page")
    html = render_choice(read_choice_content(folder, folder))
    page = Page(html)
    names = [name for name, _ in page.elements]
    assert names.count("script") == 1 and html.count("data:image/jpeg") == names.count("img") == 2
    assert not [attributes for _, attributes in page.elements if any(key.startswith("on") for key in attributes)]
    addresses = [attributes["href"] for name, attributes in page.elements if "href" in attributes]
    assert {str(address) for address in addresses if str(address)[0] != "#"} == {"data:,", "winner/report.html"}
    assert "\u202e" not in html and page.text.count(evil) >= 5


@pytest.mark.parametrize("name", ["out_of_fold.npz", "suspects.csv", "report_photos.safetensors"])
@pytest.mark.parametrize("content", [b"a,b\n1\n", b"", b"image,label\n1,2\n"])
def test_a_damaged_file_becomes_a_remark(tmp_path: Path, name: str, content: bytes) -> None:
    written_choice(tmp_path / "choice", NAMES)
    (tmp_path / "choice" / name).write_bytes(content)
    text = shown(page_of(tmp_path / "choice"))
    assert f"Left out: {tmp_path / 'choice' / name}" in text or (name == "suspects.csv" and not content)
    assert "take lite0 at 64 px" in text


def test_the_command_chooses_anew(tmp_path: Path) -> None:
    given = ["--data_root", "my photos", "--data.per_class", "9", "--trainer.accelerator", "cpu", "--folds", "4"]
    config, own = parse_choose_config([*given, "--out_dir", "x", "--max_params", "4M"])
    choice = choice_of(60, config={**config.to_dict(), **vars(own)})
    again, own_again = parse_choose_config(shlex.split(shlex.join(choose_words(choice))))
    assert own_again == own and again == replace(config, out_dir=None)
    del choice.config["logit_adjustment"]  # which an earlier version does not have
    assert parse_choose_config(shlex.split(shlex.join(choose_words(choice)))) == (again, own)
    assert "--loss.logit_adjustment" not in lpft_words(choice)


def test_the_command_report_writes_the_page_of_a_choice_which_has_to_be_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written_choice(tmp_path / "choice", NAMES)
    written_run(tmp_path / "choice" / "winner", NAMES)
    assert call(report.main, tmp_path / "choice" / "winner") == call(report.main, tmp_path / "choice") == 0
    assert 'href="winner/report.html"' in (tmp_path / "choice" / "report.html").read_text()
    (tmp_path / "pages").mkdir()
    assert call(report.main, tmp_path / "choice", "--out", tmp_path / "pages" / "a.html") == 0
    assert 'href="../choice/winner/report.html"' in (tmp_path / "pages" / "a.html").read_text()
    capsys.readouterr()
    assert call(report.main, tmp_path / "choice" / "winner", tmp_path / "choice") == 2
    assert "has a choose.json: only runs are shown side by side" in capsys.readouterr().err
    for content in ({"candidates": []}, replace(choice_of(60), chosen=3).to_dict()):
        write_json(tmp_path / "choice" / "choose.json", content)
        assert call(report.main, tmp_path / "choice") == 2
        error = capsys.readouterr().err
        assert "choose.json: damaged" in error and "Traceback" not in error
