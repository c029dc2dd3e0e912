"""efficientnet-transfer compare A A --with B B: the numbers of two settings, and the seeds that cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands.test_compare import LABELS, refused, save_run
from tests.support.runs import call
from tests.test_environment import table_rows
from transfer.commands import compare
from transfer.commands.compare_words import judge_settings
from transfer.seeds import compare_seeds


def predict(wrong: int, seed: int) -> np.ndarray:
    """Predictions of the 100 images of which about `wrong` are wrong, mostly the same ones with every seed."""
    rng = np.random.default_rng(seed)
    return np.where(np.arange(100) % 10 < wrong / 10 + (rng.random(100) < 0.02), (LABELS + 1) % 3, LABELS)


def save_settings(folder: Path, seeds_b: tuple[int, ...] = (1, 2, 3), **fields: Any) -> tuple[list[Path], list[Path]]:
    a = [save_run(folder / f"a{seed}", predict(10, seed), seed=seed) for seed in (1, 2, 3)]
    b = [
        save_run(folder / f"b{seed}", predict(30, seed + 9), seed=seed, backbone="lite0", **fields) for seed in seeds_b
    ]
    return a, b


def test_two_settings_are_compared_over_seeds_and_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = save_settings(tmp_path)
    assert call(compare.main, *a, "--with", *b[::-1], "--json", tmp_path / "found.json") == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    of_a, of_b = (
        np.stack([predict(wrong, seed) for seed in seeds]) for wrong, seeds in ((10, (1, 2, 3)), (30, (10, 11, 12)))
    )
    expected = compare_seeds(LABELS, of_a, of_b, paired=True)
    assert found["runs_a"] == list(map(str, a)) and found["settings"] == {"backbone": {"a": "b0", "b": "lite0"}}
    top1 = found["metrics"]["top1"]
    assert top1["a"] == pytest.approx([np.mean(one == LABELS) for one in of_a])
    difference = top1["difference"]
    assert (difference["value"], difference["low"]) == pytest.approx((expected.value, expected.low))
    assert difference["paired"] and difference["num_seeds"] == [3, 3]
    assert found["verdict"] == judge_settings(expected, 100)
    assert found["verdict"].startswith("A is better: +") and found["verdict"].endswith(
        "100 test images, 3 seeds in pairs"
    )
    assert printed.splitlines()[-1] == f"top-1: {found['verdict']}"
    rows = {head: cells[0] for head, *cells in table_rows(printed)[2:]}
    assert rows["A, mean of the seeds"] == f"{np.mean(top1['a']):.2%}"
    assert rows["95% interval"] == f"{100 * expected.low:+.2f} to {100 * expected.high:+.2f}"
    assert "100 test images, 3 seeds in pairs" in printed


def test_other_seeds_are_not_paired_and_what_differs_within_a_setting_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = save_settings(tmp_path, seeds_b=(7, 8))
    save_run(tmp_path / "c", predict(10, 4), seed=4, image_size=64)
    assert call(compare.main, *a, tmp_path / "c", "--with", *b) == 0
    printed = capsys.readouterr().out
    assert "100 test images, 4 and 2 seeds" in printed
    assert f"not only the seed: image_size is 0 in {a[0]}, 64 in {tmp_path / 'c'}" in printed
    capsys.readouterr()
    assert call(compare.main, *a, "--with", b[0]) == 0
    assert "; a single seed does not say how far others would differ" in capsys.readouterr().out


def test_seeds_that_cannot_be_compared_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = save_settings(tmp_path)
    assert (
        refused(capsys, *a) == "3 runs: give two, or the seeds of one setting, then --with and the seeds of the other"
    )
    assert "are both of seed 1: give one run of each seed" in refused(capsys, a[0], a[0], "--with", *b)
    other = save_run(tmp_path / "other", seed=9, fingerprint="g")
    assert "different images of digits" in refused(capsys, *a, "--with", b[0], other)


def test_the_sentence_turns_with_the_sign() -> None:
    of_a, of_b = (np.stack([predict(wrong, seed) for seed in (1, 2)]) for wrong in (10, 30))
    ahead, behind = (
        judge_settings(compare_seeds(LABELS, *pair, paired=True), 100) for pair in ((of_a, of_b), (of_b, of_a))
    )
    assert ahead == behind.replace("B is better", "A is better")
    assert judge_settings(compare_seeds(LABELS, of_a, of_a, paired=True), 100).startswith(
        "cannot tell which is better: none is ahead (+0.0 to +0.0), 100 test images, 2 seeds in pairs"
    )
