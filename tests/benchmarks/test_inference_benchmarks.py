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
        "ratio_to_plain_range": [3.0, 6.0],
        "ratio_to_timm": 2.0,
        "ratio_to_timm_range": [2.0, 3.0],
    }
    assert "ratio_to_timm" not in inference.compare({"torch": [1.0], "plain": [1.0]})["torch"]


def test_every_installed_engine_and_the_plain_network_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    monkeypatch.setattr(inference, "find_spec", lambda name: None)
    assert list(inference.own_engines("lite0", images)) == [n for n, row in ENGINES.items() if row.package is None]
    assert "plain" in inference.rivals("lite0", images)


def test_photos_without_a_validation_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder validation"):
        photos.benchmark_photos(tmp_path, None, "lite0", 32, 1)


def test_a_command_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"predict no_run.*no_photos"):
        photos.timed("predict", ["no_run", "no_photos"], tmp_path, Path.cwd())


def test_commands_take_turns_with_those_of_an_earlier_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def timed(verb: str, words: list[str], cache: Path, checkout: Path) -> tuple[float, float]:
        calls.append((verb, checkout, cache, "--engine" in words))
        return (8.0, 9.0) if checkout == tmp_path else (2.0, 3.0)

    monkeypatch.setattr(photos, "timed", timed)
    figures = photos.measure_commands(tmp_path / "photos", tmp_path, ["--backbone", "lite0"], tmp_path / "scratch", 2)
    assert figures["predict"]["wall_seconds"] == {"before": 8.0, "now": 2.0, "ratio": 4.0, "ratio_range": [4.0] * 2}
    assert figures["probe"]["processor_seconds"]["ratio"] == 3.0
    assert [call[:2] for call in calls[:2]] == [("probe", tmp_path), ("probe", Path.cwd())]
    assert len({cache for _, _, cache, _ in calls}) == len(calls) == 12
    assert all(engine == (checkout != tmp_path) for _, checkout, _, engine in calls)
