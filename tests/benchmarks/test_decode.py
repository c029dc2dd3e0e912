"""The benchmark of decoding measures every step on the same images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmark
from benchmarks.data import make_jpegs
from benchmarks.ratios import ratio


def test_decode_measures_each_step_and_compares(tmp_path: Path) -> None:
    make_jpegs(tmp_path / "jpegs", 40)
    path = tmp_path / "decode.json"
    argv = ["decode", "--data_root", str(tmp_path / "jpegs"), "--max_images", "20", "--image_size", "32"]
    assert benchmark.main([*argv, "--rounds", "1", "--json", str(path)]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert (figures["num_images"], figures["image_size"]) == (20, 32)
    assert figures["median_width_and_height"] == [500, 375]
    costs = {name: value for name, value in figures.items() if isinstance(value, dict) and "page_faults" in value}
    assert costs.keys() >= {"decode_image", "Pillow's decoding", "loader, 1 thread", "file to input", "features, torch"}
    assert all(0 < value["milliseconds"] < 1000 for value in costs.values())
    share = figures["share of decoding in an extraction, torch"]["ratio"]
    whole = costs["file to input"]["milliseconds"] + costs["features, torch"]["milliseconds"]
    assert share == pytest.approx(costs["file to input"]["milliseconds"] / whole, abs=0.002)


def test_ratios_are_of_rounds_not_of_medians() -> None:
    assert ratio((1.0, 4.0, 9.0), (2.0, 4.0, 6.0)) == {"ratio": 1.0, "ratio_range": [0.5, 1.5]}
