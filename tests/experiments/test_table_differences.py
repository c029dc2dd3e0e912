"""The differences of a table's settings, their averages over datasets, the values of each seed, and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from tests.support.results import EVIL, Cells, done, every_kind_of_cell, of, save_table
from transfer.experiments.table.averages import average_results
from transfer.experiments.table.csv_files import csv_seeds
from transfer.experiments.table.differences import Comparison, compare_settings
from transfer.experiments.table.entries import read_entries
from transfer.experiments.table.latex import escape_latex, latex_report
from transfer.experiments.table.markdown import markdown_report
from transfer.experiments.table.report import write_report
from transfer.experiments.table.results import Result, table_results
from transfer.paper import PARAMETERS_WITHOUT_CLASSIFIER
from transfer.seeds import average_difference, compare_seeds
from transfer.statistics import mean_interval, mean_per_class, top1

Labels = NDArray[np.int64]
LABELS = np.repeat([0, 1, 2], [200, 120, 80])
Plan = Sequence[tuple[str, str, str, Sequence[int], float]]
PLAN: Plan = (
    ("cars", "b3", "kornblith", (0, 1, 2), 0.90),
    ("cars", "b0", "kornblith", (0, 1, 2), 0.80),
    ("cars", "b3", "scratch", (5, 6), 0.60),
    ("pets", "b3", "kornblith", (0, 1, 2), 0.90),
    ("pets", "b0", "kornblith", (0, 1, 2), 0.80),
)


def predict(share: float, number: int) -> Labels:
    """Predictions that are right on about a share of the images; the easy ones are the same for every network."""
    ease, own = np.random.default_rng(0).normal(size=400), np.random.default_rng(number + 1).normal(size=400)
    return np.where(ease + 0.4 * own < np.hypot(1, 0.4) * norm.ppf(share), LABELS, (LABELS + 1) % 3)


def save(folder: Path, plan: Plan = PLAN) -> Path:
    """A table whose cells keep their predictions."""
    cells: Cells = []
    seeds, kept = [], []
    for dataset, backbone, protocol, own_seeds, share in plan:
        for seed in own_seeds:
            found = predict(share, len(cells))
            metric = "mean_per_class" if dataset == "pets" else "top1"
            accuracies = (100 * measure(LABELS, found) for measure in (top1, mean_per_class))
            parameters = PARAMETERS_WITHOUT_CLASSIFIER[backbone]
            fields: dict[str, Any] = {"quoted_metric": metric, "num_parameters_without_classifier": parameters}
            cells.append((dataset, backbone, protocol, done(*accuracies, steps=200, **fields)))
            seeds.append(seed)
            kept.append(found)
    save_table(folder, cells, seeds)
    for number, found in enumerate(kept):
        keep(folder, number, found)
    return folder


def keep(folder: Path, number: int, predictions: Labels, labels: Labels = LABELS) -> None:
    run_dir = folder / "cells" / f"cell-{number}" / "final"
    run_dir.mkdir(exist_ok=True)
    paths = np.array([f"/photos/{index}.png" for index in range(len(labels))])
    np.savez(run_dir / "test_predictions.npz", label=labels, prediction=predictions, path=paths)


def compared(folder: Path) -> list[Comparison]:
    return compare_settings(folder, table_results(read_entries(folder)))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save(tmp_path_factory.mktemp("table"))
    write_report(folder)
    return folder


def test_the_pairs_are_protocols_of_a_backbone_and_neighbouring_backbones_of_a_protocol(table: Path) -> None:
    found = compared(table)
    assert [(one.datasets, one.a, one.b, one.metrics) for one in found] == [
        (("cars",), ("b3", "scratch"), ("b3", "kornblith"), ("top1",)),
        (("cars",), ("b3", "kornblith"), ("b0", "kornblith"), ("top1",)),
        (("pets",), ("b3", "kornblith"), ("b0", "kornblith"), ("mean_per_class",)),
        (("cars", "pets"), ("b3", "kornblith"), ("b0", "kornblith"), ("top1", "mean_per_class")),
    ]


def test_a_difference_is_that_of_the_kept_predictions(table: Path) -> None:
    found = compared(table)
    b3, b0 = (np.stack([predict(share, first + k) for k in range(3)]) for share, first in ((0.9, 0), (0.8, 3)))
    expected = compare_seeds(LABELS, b3, b0, paired=True)
    assert found[1].difference == expected and expected.num_seeds == (3, 3)
    scratch = np.stack([predict(0.6, 6), predict(0.6, 7)])
    assert found[0].difference == compare_seeds(LABELS, scratch, b3, paired=False)
    b3, b0 = (np.stack([predict(share, first + k) for k in range(3)]) for share, first in ((0.9, 8), (0.8, 11)))
    per_class = compare_seeds(LABELS, b3, b0, "mean_per_class", paired=True)
    assert found[2].difference == per_class
    assert found[3].difference == average_difference([expected, per_class])


def test_all_comparisons_are_corrected_together(table: Path) -> None:
    found = compared(table)
    p_values = sorted(one.difference.p_value for one in found if one.difference)
    assert min(one.corrected for one in found if one.corrected is not None) == pytest.approx(min(1, 4 * p_values[0]))
    assert [one.verdict for one in found] == ["B better", "A better", "A better", "A better"]


def test_pairs_follow_the_seeds_and_not_the_order_of_the_plan(tmp_path: Path) -> None:
    plan = (("cars", "b3", "kornblith", (0, 1, 2), 0.9), ("cars", "b0", "kornblith", (2, 0, 1), 0.8))
    [found] = compared(save(tmp_path, plan))
    b3, b0 = (np.stack([predict(share, k) for k in order]) for share, order in ((0.9, (0, 1, 2)), (0.8, (4, 5, 3))))
    assert found.difference == compare_seeds(LABELS, b3, b0, paired=True)


@pytest.mark.parametrize(
    ("number", "kept", "labels", "reason"),
    [
        (1, None, LABELS, "cells/cell-1/final has no test_predictions.npz"),
        (1, predict(0.5, 1), LABELS, "cells/cell-1/final: its predictions are not those of its result"),
        (1, predict(0.9, 1)[::-1], LABELS[::-1], "the seeds of b3 by kornblith were tested on different images"),
    ],
)
def test_what_cannot_be_compared_says_why(
    number: int, kept: Labels | None, labels: Labels, reason: str, tmp_path: Path
) -> None:
    folder = save(tmp_path, PLAN[:2])
    if kept is None:
        (folder / "cells" / f"cell-{number}" / "final" / "test_predictions.npz").unlink()
    else:
        keep(folder, number, kept, labels)
    [found] = compared(folder)
    assert found.reason.startswith(reason) and found.verdict == "not compared" and found.corrected is None
    assert "| not compared: " in markdown_report("t", table_results(read_entries(folder)), comparisons=[found])


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        (("map", "map"), "only results with one label per image are compared"),
        (("top1", "mean_per_class"), "A quotes mean_per_class, B top1"),
    ],
)
def test_other_metrics_are_not_compared(metrics: tuple[str, str], reason: str, tmp_path: Path) -> None:
    measured = {"test": {"top1": 0.9, "mean_per_class": 0.9, **({"map": 0.9} if "map" in metrics else {})}}
    cells: Cells = [
        ("cars", "b0", protocol, done(90, 90, metrics=measured, quoted_metric=metric))
        for protocol, metric in zip(("kornblith", "scratch"), metrics, strict=True)
    ]
    [found] = compared(save_table(tmp_path, cells))
    assert (found.reason, found.verdict) == (reason, "not compared")


def test_settings_with_other_test_images_are_not_compared(tmp_path: Path) -> None:
    folder = save(tmp_path, PLAN[:2])
    for number in range(3):
        keep(folder, number, predict(0.9, number)[::-1], LABELS[::-1])
    [found] = compared(folder)
    assert found.reason == "their test images differ, or the order of them"


def test_the_report_says_what_is_better_and_by_how_much(table: Path) -> None:
    text = (table / "report.md").read_text()
    found = compared(table)[1]
    assert found.difference is not None
    value, low, high = (
        f"{100 * share:+.2f}" for share in (found.difference.value, found.difference.low, found.difference.high)
    )
    assert (
        f"| cars | b3 by kornblith | b0 by kornblith | top-1 | 3 in pairs | {value} ({low} to {high}) |"
        f" {found.difference.p_value:.2g} | {found.corrected:.2g} | A better |" in text
    )
    assert (
        "| average over 2 datasets: cars, pets | b3 by kornblith | b0 by kornblith | top-1 and mean per class |" in text
    )
    assert "corrected together by Holm's method" in text
    with open(table / "report_differences.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["datasets"] for row in rows] == ["cars", "cars", "pets", "cars pets"]
    assert float(rows[1]["difference"]) == pytest.approx(100 * found.difference.value, abs=1e-4)
    assert found.difference.bootstrap is not None
    assert float(rows[1]["bootstrap_low"]) == pytest.approx(100 * found.difference.bootstrap.low, abs=1e-4)
    assert (rows[0]["paired"], rows[0]["seeds_a"], rows[3]["bootstrap_low"]) == ("False", "2", "")


def test_the_seeds_file_has_a_line_for_each_cell(table: Path, tmp_path: Path) -> None:
    with open(table / "report_seeds.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cell"] for row in rows] == [f"cell-{number}" for number in range(14)]
    first = rows[0]
    assert (first["dataset"], first["seed"], first["status"], first["steps"]) == ("cars", "0", "done", "200")
    assert float(first["top1"]) == pytest.approx(100 * top1(LABELS, predict(0.9, 0)))
    assert (first["chosen"], first["test_reads"], first["quoted_metric"]) == ("optim.lr=0.01", "1", "top1")
    every = table_results(read_entries(save_table(tmp_path, every_kind_of_cell())))
    rows = list(csv.DictReader(io.StringIO(csv_seeds(every))))
    assert len(rows) == 11 and {row["status"] for row in rows} == {"done", "failed", "not run"}
    assert rows[-1]["dataset"] == "'=HYPERLINK(1)|<b>x</b> `$y_z"
    assert [row["status"] for row in rows if row["error"]] == ["failed"] * 2


def results_of(accuracies: Mapping[str, Sequence[float]], folder: Path) -> list[Result]:
    cells: Cells = [(name, "b0", "kornblith", done(one, one)) for name, values in accuracies.items() for one in values]
    seeds = [seed for values in accuracies.values() for seed in range(len(values))]
    return table_results(read_entries(save_table(folder, cells, seeds)))


def test_averages_are_those_of_papers(tmp_path: Path) -> None:
    [found] = average_results(results_of({"cars": [90, 92], "food101": [60, 64], "x": [99, 99]}, tmp_path))
    assert found.datasets == ("cars", "food101", "x")
    assert found.mean == mean_interval([(90 + 60 + 99) / 3, (92 + 64 + 99) / 3]) and found.mean.count == 2
    odds = 0.91 / 0.09 * 0.62 / 0.38 * 0.99 / 0.01
    assert found.log_odds == pytest.approx(math.log(odds) / 3)
    assert found.accuracy_of_log_odds == pytest.approx(100 * odds ** (1 / 3) / (1 + odds ** (1 / 3)))


def test_an_average_takes_the_seeds_that_all_datasets_have(tmp_path: Path) -> None:
    [found] = average_results(results_of({"cars": [90, 92, 70], "food101": [60, 64]}, tmp_path))
    assert found.mean.value == pytest.approx((91 + 62) / 2) and found.mean.count == 2
    [perfect] = average_results(results_of({"cars": [100], "food101": [60]}, tmp_path / "perfect"))
    assert perfect.log_odds is None and (perfect.mean.value, perfect.mean.low) == (80, None)
    assert average_results(results_of({"cars": [90]}, tmp_path / "one")) == []


def test_the_report_has_a_row_of_the_averages(tmp_path: Path) -> None:
    results = results_of({"cars": [90, 92], "food101": [60, 64]}, tmp_path)
    text = markdown_report("t", results, averages=average_results(results))
    mean = mean_interval([75, 78])
    assert mean.low is not None and mean.high is not None
    odds = math.log(0.91 / 0.09 * 0.62 / 0.38) / 2
    assert (
        f"| b0 | kornblith | average over 2 datasets: cars, food101 | 2 | 76.50 ({mean.low:.2f} to {mean.high:.2f}) |"
        f" {odds:.2f} ({100 / (1 + math.exp(-odds)):.2f}) |" in text
    )
    assert "arXiv 1805.08974" in text and "arXiv 1910.04867" in text


def test_no_accuracy_is_below_0_or_above_100(tmp_path: Path) -> None:
    [low] = results_of({"cars": [0.1, 0.9]}, tmp_path / "low")
    [high] = results_of({"cars": [99, 100]}, tmp_path / "high")
    assert low.quoted is not None and low.quoted.low == 0 and high.quoted is not None and high.quoted.high == 100
    assert "**0.50 (0.00 to 5.58)**" in markdown_report("t", [low])


def test_latex_escapes_names() -> None:
    assert escape_latex("50% of_a {b} $c$ #1 & ~^\\ <x>") == (
        r"50\% of\_a \{b\} \$c\$ \#1 \& \textasciitilde{}\textasciicircum{}\textbackslash{} \textless{}x\textgreater{}"
    )
    assert escape_latex("a--b\n\u4e2d") == r"a-{}-b \textbackslash{}u4e2d"


def test_the_latex_tables_hold_the_numbers(table: Path) -> None:
    text = (table / "report.tex").read_text()
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 3
    mean = mean_interval([100 * top1(LABELS, predict(0.9, number)) for number in range(3)])
    numbers = f"{mean.value:.2f} & {mean.low:.2f}--{mean.high:.2f}"
    assert f"Stanford Cars & b3 & kornblith & 3 & top-1 & {numbers} & 93.60 & inconclusive \\\\" in text
    found = compared(table)[0]
    assert found.difference is not None and found.difference.value < 0
    assert f"& ${100 * found.difference.value:+.2f}$ &" in text and "$<$0.001" in text
    for lines in text.split(r"\begin{tabular}")[1:]:
        rows = [line for line in lines.splitlines() if line.endswith(r"\\")]
        assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_latex_tables_compile(table: Path, tmp_path: Path) -> None:
    evil = table_results(read_entries(save_table(tmp_path / "evil", every_kind_of_cell())))
    names = (EVIL, "~^\\{}%#&_\"'`|<>--?`\u4e2d\u00e9\u2212")
    comparisons = [replace(one, a=names, b=names) for one in compared(table)]
    (tmp_path / "report.tex").write_text(latex_report(evil, comparisons, []) + (table / "report.tex").read_text())
    document = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\input{report}\n\\end{document}\n"
    (tmp_path / "paper.tex").write_text(document)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_figures_are_the_same_bytes_each_time_and_hold_no_date(tmp_path: Path) -> None:
    cells: Cells = [("cifar10", "b0", "kornblith", done(98, 98, num_parameters_without_classifier=of("b0")))]
    written = write_report(save_table(tmp_path, cells))
    figures = {path.name: path.read_bytes() for path in written if path.suffix in (".png", ".svg", ".pdf")}
    assert list(figures) == [f"{name}.{kind}" for name in ("table5", "figure6") for kind in ("png", "svg", "pdf")]
    write_report(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in figures} == figures
    for name, head in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert figures[f"figure6.{name}"].startswith(head)
        assert not any(word in figures[f"figure6.{name}"] for word in (b"CreationDate", b"<dc:date>", b"Matplotlib v"))
