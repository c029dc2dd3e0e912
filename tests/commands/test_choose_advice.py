"""What a choice says of more photos and of doubtful labels, in words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from transfer.commands.choose.curve import summarise
from transfer.commands.choose.curve_figure import draw_curve
from transfer.commands.choose.images import Images
from transfer.commands.choose.suspects import describe_weakest_class, doubt_labels
from transfer.images.depth import DEFAULT_DECODING
from transfer.probe.learning_curve import Measured, extrapolate
from transfer.statistics import share_interval

NAMES = ("cat", "dog\x1b", "hen")


def curve(gains: list[float], groups: NDArray[np.int64] | None = None) -> Measured:
    """Accuracies of three classes from half to `gains` more, at five sizes that double in two steps."""
    labels, rng = np.arange(900) % 3, np.random.default_rng(0)
    progress = 1 - np.arange(4, -1, -1) / 4
    shares = 0.5 + np.outer(progress, gains)[:, labels]
    ease = rng.random(900) + rng.normal(0, 0.02, (3, 5, 900))
    return Measured(720 * 2 ** (np.arange(-4, 1) / 2), ease < shares, labels, groups, "top1")


def test_the_gain_of_twice_the_photos_and_of_a_class_is_said_with_its_interval() -> None:
    measured = curve([0.02, 0.4, 0.1])
    found = summarise(measured, extrapolate(measured), "ridge", NAMES)
    assert (found.head, found.draws, len(found.points), found.refusal) == ("ridge", 3, 5, None)
    twice, four_times = found.forecasts
    assert (twice.factor, four_times.factor) == (2, 4)
    assert twice.gain_interval.low < twice.gain < twice.gain_interval.high < four_times.gain_interval.high
    assert found.most_gained is not None and found.most_gained.class_name == NAMES[1]
    assert found.most_gained.gain == pytest.approx(0.2, abs=0.05) and found.most_gained.images == 300
    first, second = str(found).splitlines()
    assert first.startswith(
        f"twice the photos: {100 * twice.gain:+.1f} points ({100 * twice.gain_interval.low:+.1f} to "
    )
    assert second.startswith("from half of the photos to all, dog\\x1b (300 photos) gained most: +")


def test_a_refusal_is_said_and_drawn(tmp_path: Path) -> None:
    measured = curve([0.0, 0.0, 0.0])
    refusal = extrapolate(measured)
    found = summarise(measured, refusal, "ridge", NAMES)
    assert found.forecasts == [] and found.most_gained is None
    assert str(found) == f"what more photos would bring cannot be told: {found.refusal}"
    assert "accuracy changes by" in str(found)
    path = draw_curve(found.points, refusal, 900, 3, ("title", "accuracy"), tmp_path / "curve.png")
    with Image.open(path) as picture:
        assert picture.size == (960, 720)


def tried(predictions: NDArray[np.int64], num_classes: int = 3) -> Any:
    probabilities = 0.1 + 0.7 * np.eye(num_classes, dtype=np.float32)[predictions]
    return SimpleNamespace(found=SimpleNamespace(predictions=predictions[None], probabilities=probabilities))


def images(labels: NDArray[np.int64], groups: NDArray[np.str_] | None = None, path: Path | None = None) -> Images:
    """All images are one file."""
    count = len(labels)
    split: Any = SimpleNamespace(
        labels=torch.from_numpy(labels), groups=groups, encoded=lambda _: path, decoding=DEFAULT_DECODING
    )
    return Images(split, np.arange(count), [f"{index}.jpg" for index in range(count)], np.zeros((1, count), np.int64))


def dataset(**fields: Any) -> Any:
    return SimpleNamespace(class_names=NAMES, num_classes=3, **fields)


def test_the_class_that_fares_worst_is_named_with_what_it_is_taken_for() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 100])
    predictions = labels.copy()
    predictions[100:120] = 2
    predictions[120:125] = 0
    words = describe_weakest_class(tried(predictions), dataset(), images(labels))
    interval = share_interval(0.5, 50).percent()
    assert words == (
        f"dog\\x1b fares worst: 50.0% ({interval}) of 50 photos, mostly taken for hen: look there first, at the labels"
        " and for more photos"
    )
    assert describe_weakest_class(tried(labels), dataset(), images(labels)) is None
    few_groups = images(labels, np.where(np.arange(250) % 2, "a", "b"))
    assert describe_weakest_class(tried(predictions), dataset(), few_groups) is not None


def test_photos_that_may_be_mislabelled_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.repeat([0, 1, 2], 20)
    predictions = labels.copy()
    predictions[:2] = 1
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    both = images(labels, path=tmp_path / "photo.png")
    assert doubt_labels(tried(predictions), dataset(), both, tmp_path) == 2
    table, sheet = tmp_path / "suspects.csv", tmp_path / "suspects.png"
    assert capsys.readouterr().out == f"2 photos may be mislabelled, the likeliest first: {table}, {sheet}\n"
    assert doubt_labels(tried(labels), dataset(), both, tmp_path) == 0
    assert capsys.readouterr().out == "no photo looks mislabelled\n"
