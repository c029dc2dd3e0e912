"""The page about a table: its cells beside the published numbers, and what it says of cells without a result."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.reported import Page
from tests.support.results import EVIL, Cells, done, every_kind_of_cell, of, save_table
from tests.support.runs import ROOT, call
from tests.support.tables import make_cell
from transfer.commands import report, table
from transfer.experiments.table.cells import Table, table_content
from transfer.files import write_json
from transfer.report.layout import find_link
from transfer.report.table_content import read_table_content
from transfer.report.table_sections import place_difference, render_table
from transfer.statistics import Mean, mean_interval

SEEDS = (88.05, 88.12, 88.2)


def cells() -> Cells:
    fields = {"num_parameters_without_classifier": of("b0"), "image_size": 224, "num_trials": 4}
    return [*every_kind_of_cell(), *(("cifar100", "b0", "kornblith", done(seed, seed, **fields)) for seed in SEEDS)]


def page_of(folder: Path) -> Page:
    return Page(render_table(read_table_content(folder, folder)))


def shown(page: Page) -> str:
    return " ".join(page.text.split())


def table_with(page: Page, head: str) -> list[list[str]]:
    return next(rows for rows in page.tables if head in rows[0])


def test_results_stand_beside_the_published_ones_with_their_seeds_and_status(tmp_path: Path) -> None:
    page = page_of(save_table(tmp_path, cells()))
    text = shown(page)
    assert "11 of 14 cells are done; 2 failed, 1 not run." in text
    assert "Of 7 results that have a published value: 3 not comparable, 1 failed, 1 reproduced" in text
    rows = {row[0]: row for row in table_with(page, "published, %")[1:]}
    mean = mean_interval(SEEDS)
    found = rows["CIFAR-100b0, kornblith"]
    assert found[1] == f"{mean.value:.2f}{mean.low:.2f} to {mean.high:.2f}top-1 accuracy"
    assert found[2:5] == ["88.1Tan & Le 2019, Table 5", f"{mean.value - 88.1:+.2f}", "reproduced"]
    assert found[5] == "3 of 388.05, 88.12, 88.20"
    pets = rows["Oxford-IIIT Petsb4, paper"]
    assert pets[1].endswith("mean accuracy per class") and pets[4] == "inconclusive2 of at least 3 seeds"
    assert rows["CIFAR-10b0, kornblith"][4].startswith("not comparable1 of 4 seeds failed: loss is nan | =1")
    assert rows["Food-101b4, kornblith"][3] == "" and "went through JPEG once" in rows["Food-101b4, kornblith"][4]
    assert "extra data: weights trained on JFT-300M" in rows["Food-101b4, kornblith"][4]
    assert rows["Stanford Carsb3, kornblith"][4] == "not run"
    paper = next(row for row in table_with(page, "set against, %")[1:] if row[0] == "CIFAR-100")
    assert paper[1:3] == ["87.5NASNet-A, 85M", "88.1b0, 4M, 21x fewer"]
    assert paper[3] == f"{mean.value:.2f}{mean.low:.2f} to {mean.high:.2f}kornblith"
    assert paper[4:] == ["4,007,54821.2x fewer", "reproduced"]


def test_each_cell_says_what_was_chosen_and_how_often_test_was_read(tmp_path: Path) -> None:
    folder = save_table(tmp_path, cells())
    path = folder / "cells" / "cell-11" / "result.json"
    result = json.loads(path.read_text())
    result["metrics"]["val"] = {"top1": 0.873}
    path.write_text(json.dumps({**result, "final_run": "cells/cell-11/final"}))
    page = page_of(folder)
    found = next(row for row in table_with(page, "test read")[1:] if row[0].startswith("cell-11"))
    assert found[1:] == ["11", "88.05", "87.30", "optim.lr=0.01full grid", "4", "1"]
    assert len(table_with(page, "test read")) == 15
    text = shown(page)
    assert "Of 10 cells, test was read once; of 1 cell, test was read 2 times." in text
    assert "Of 1 cell, test has been read more than once" in text
    assert "cell-5: loss is nan | =1" in text and "Traceback" in text and "--retry_failed" in text
    assert not [a for name, a in page.elements if name == "a" and not str(a["href"]).startswith("#")]
    final = folder / "cells" / "cell-11" / "final"
    final.mkdir()
    (final / "report.html").write_text("a page")
    links = [a["href"] for name, a in page_of(folder).elements if name == "a" and not str(a["href"]).startswith("#")]
    assert links == ["cells/cell-11/final/report.html"]


def test_a_link_leads_to_names_that_are_no_text(tmp_path: Path) -> None:
    page = tmp_path / os.fsdecode(b"caf\xe9: a") / "report.html"  # Latin-1
    page.parent.mkdir()
    page.write_text("a page")
    assert find_link(page, tmp_path) == "caf%E9%3A%20a/report.html"
    assert find_link(page, tmp_path / "b") == "../caf%E9%3A%20a/report.html"
    assert find_link(page.parent, tmp_path) is None


def test_what_nobody_wrote_down_is_left_out(tmp_path: Path) -> None:
    facts = {"versions": {"torch": "2.13.0", "timm": None}, "git_commit": None}
    page = page_of(save_table(tmp_path, [("digits", "lite0", "kornblith", done(98, 98, **facts))]))
    assert "torch 2.13.0" in page.text and "timm" not in page.text and "None" not in page.text


def test_a_result_cannot_link_out_of_its_table(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("another page")
    (tmp_path / "table").mkdir()
    hostile = [("cifar10", "b0", "kornblith", done(98, 98, final_run=run)) for run in ("..", "javascript:alert(1)//")]
    page = page_of(save_table(tmp_path / "table", hostile))
    assert not [a for name, a in page.elements if name == "a" and not str(a["href"]).startswith("#")]


def test_hostile_names_are_text_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    html = render_table(read_table_content(save_table(tmp_path, cells()), tmp_path))
    page = Page(html)
    names = [name for name, _ in page.elements]
    assert names.count("script") == 1 and "<b>x</b>" in page.text and EVIL.partition("\n")[0] in page.text
    assert "<b>x</b>" not in html
    outside = r"""(src|href)\s*=\s*["'](?!data:|#)|https?://(?!www\.w3\.org/(2000/svg|1999/xlink))|@import|url\((?!#)"""
    assert not re.search(outside, html)


def test_a_difference_is_placed_on_its_scale() -> None:
    span = place_difference(Mean(98.4, 97.5, 99.3, 3), 98.1)
    assert (round(span.value, 2), span.left, span.dot) == (0.3, pytest.approx(40), pytest.approx(55))
    assert (span.width, span.band_left, span.band_width) == pytest.approx((30, 50 - 100 / 12, 100 / 6))
    beyond = place_difference(Mean(90, None, None, 1), 98.1)
    assert (beyond.left, beyond.width, beyond.dot) == (0, 0, 0)


def test_a_table_without_results_says_so(tmp_path: Path) -> None:
    text = shown(page_of(save_table(tmp_path, [("digits", "lite0", "kornblith", None)])))
    assert "0 of 1 cells are done; 1 not run." in text and "published, %" not in text
    assert "Failures" not in text and "How the status" not in text


def test_table_report_and_report_write_the_same_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_table(tmp_path, [("digits", "lite0", "kornblith", done(98, 98))])
    plan = Table(cells=(replace(make_cell(), id="cell-0"),))
    write_json(folder / "table.json", table_content(plan))
    assert call(table.main, "report", folder) == 0
    assert capsys.readouterr().out.endswith(f"report: {folder / 'report.html'}\n")
    first = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert call(report.main, folder) == 0
    assert (folder / "report.html").read_text() == first
    assert call(report.main, folder, folder) == 2
    assert "has a table.json: only runs are shown side by side" in capsys.readouterr().err


def test_table_run_ends_with_the_page_of_table_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cifar10"
    shutil.copytree(ROOT / "benchmarks/ledger/cifar10", folder, ignore=shutil.ignore_patterns("report*", "figure*"))
    assert call(table.main, "run", folder) == 0
    assert f"report: {folder / 'report.html'}\n" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert "Differences of settings" in page and "cannot tell" in page
    assert call(table.main, "report", folder) == 0
    assert (folder / "report.html").read_text() == page


def test_averages_and_differences_are_those_of_the_report(tmp_path: Path) -> None:
    lower = [("cifar10", "b0", "kornblith", done(value, value)) for value in (96.0, 96.2, 96.4)]
    folder = save_table(tmp_path, [*lower, *cells()[-3:]])
    average = table_with(page_of(folder), "mean of accuracies, %")[1]
    assert average[0] == "b0kornblith" and average[3].startswith("cifar10, cifar100")
    assert average[1].startswith(f"{(96.2 + sum(SEEDS) / 3) / 2:.2f}")
    assert "Differences of settings" not in shown(page_of(folder))
    row = {"datasets": "cifar10", "metrics": "top1", "seeds_a": "3", "seeds_b": "3", "paired": "True", "reason": ""}
    row |= {
        "backbone_a": "b1",
        "protocol_a": "kornblith",
        "backbone_b": "b0",
        "protocol_b": "<b>",
        "verdict": "A better",
    }
    row |= {"difference": "0.5", "low": "0.1", "high": "0.9", "p_value_holm": "0.0123"}
    (folder / "report_differences.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    found = table_with(page_of(folder), "A less B, points")[1]
    assert found == [
        "cifar10top-1 accuracy",
        "b1, kornblith",
        "b0, <b>",
        "+0.50+0.10 to +0.90",
        "0.012",
        "A better3 seeds in pairs",
    ]
    (folder / "report_differences.csv").write_text("datasets\ncifar10\n")
    assert f"Left out: {folder / 'report_differences.csv'}: damaged" in shown(page_of(folder))
