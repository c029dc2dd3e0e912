"""The benchmarks of engines: what they measure, and how they compare it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import inference, photos
from transfer.errors import UserError
from transfer.inference.names import ENGINES


def test_ratios_are_taken_turn_by_turn_with_the_fastest_of_timm() -> None:
    speeds = {
        "torch": [30.0, 60.0, 40.0],
        "plain": [10.0, 10.0, 10.0],
        "timm a": [5.0] * 3,
        "timm b": [15.0, 20.0, 20.0],
    }
    found = inference.compare(speeds)["torch"]
    assert found == {
        "images_per_second": 40.0,
        "ratio_to_plain": 4.0,
        "range_to_plain": [3.0, 6.0],
        "ratio_to_timm": 2.0,
        "range_to_timm": [2.0, 3.0],
    }
    assert "ratio_to_timm" not in inference.compare({"torch": [1.0], "plain": [1.0]})["torch"]


def test_every_installed_engine_and_the_plain_network_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    monkeypatch.setattr(inference, "find_spec", lambda name: None)
    assert list(inference.own_engines("lite0", images)) == [n for n, row in ENGINES.items() if row.package is None]
    assert "plain" in inference.rivals("lite0", images)


def test_photos_without_a_validation_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder validation"):
        photos.benchmark_photos(tmp_path, "lite0", 32, 1)


def test_a_process_that_fails_is_told() -> None:
    with pytest.raises(UserError, match="no such thing"):
        photos.timed(["python3", "-c", "raise SystemExit('no such thing')"])
