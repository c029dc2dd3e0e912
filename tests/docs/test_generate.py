"""The generated parts of the pages: figures are those of the files, and what is committed is what they say today."""

from __future__ import annotations

import argparse
import json
from statistics import mean
from typing import Any

import pytest
from PIL import Image

from docs.generate import accuracy, measurement, picture, reference, results, scaling, speed, unknown
from tests.support.pages import ROOT


def read(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())


def top1s(task: str, method: str) -> list[float]:
    return [run["test_top1"] for run in read("small_data_cpu")[task][method]["runs"]]


def test_the_readmes_results_are_those_of_the_files() -> None:
    text = results.README.read_text()
    assert results.with_rows(text) == text, "run: python -m docs.generate.results"
    draws = top1s("clothing-2700", "lpft")
    assert f"{100 * mean(draws):.1f}%" in results.rows()


def test_the_picture_shows_the_figures_of_the_file() -> None:
    with Image.open(picture.PICTURE) as image:
        drawn = image.info["Description"]
    assert drawn == picture.digest(picture.figures()), "run: python -m docs.generate.picture"
    points = dict(picture.figures()["probe"])
    assert points[30] == [100 * top1 for top1 in top1s("clothing-30", "probe")]


def test_a_row_of_few_photos_has_the_mean_of_each_method() -> None:
    (row,) = [line for line in accuracy.few_photos().splitlines() if line.startswith("| 30 clothing photos")]
    expected = [top1s("clothing-30", method) for method in ("probe", "lpft", "defaults", "timm", "fastai")]
    assert row.split(" | ")[1:] == [
        f"{100 * mean(draws):.1f}% ({len(draws)})" + " |" * (draws is expected[-1]) for draws in expected
    ]


@pytest.mark.parametrize("row", (*accuracy.MEASUREMENTS, *speed.MEASUREMENTS), ids=lambda row: f"{row.file}")
def test_a_measurement_changes_with_its_file(row: measurement.Measurement) -> None:
    """Each result is read from the file: with other numbers in it, it says something else."""
    content = read(row.file)
    assert row.result(content) != row.result(doubled(content))


def doubled(content: Any) -> Any:
    """The content with every fraction doubled."""
    if isinstance(content, dict):
        return {name: doubled(value) for name, value in content.items()}
    if isinstance(content, list):
        return [doubled(value) for value in content]
    return 2 * content if isinstance(content, float) else content


def test_the_tables_of_calibration_and_scaling_have_the_files_figures() -> None:
    known = read("calibration_cpu")
    assert f"{100 * known['clothing']['ece_before']:.1f}%" in unknown.calibration()
    assert f"{known['strangers']['cifar10']['distance']['auroc']:.3f}" in unknown.strangers()
    b7 = read("scaling_rule")["departures"][-1]
    assert f"{b7['macs'] / 1e9:.2f} / {b7['rule_macs'] / 1e9:.2f} |" in scaling.rule().splitlines()[-1]
    assert all(line in scaling.studies() for line in read("evolve_digits_lite0")["conclusions"])


def test_arguments_and_errors_as_markdown() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--sizes", default=3, metavar="N", help="a <b> | c_d; see `x_y`")
    parser.add_argument("--mode", choices=("a", "b"))
    parser.add_argument("--hidden", help=argparse.SUPPRESS)
    assert reference.arguments(parser).split("\n\n") == [
        "`--sizes N`\n: a \\<b\\> \\| c\\_d; see `x_y`; default: `3`",
        "- `--mode {a,b}`",
    ]
    lines = reference.errors().splitlines()
    assert lines[0].startswith("- `UserError`: ") and any(line.startswith("  - `Diverged`: ") for line in lines)
