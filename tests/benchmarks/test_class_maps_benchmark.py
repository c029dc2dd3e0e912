"""The benchmark of class maps: where the photos are, and what a map that finds them scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.class_maps import class_folders, divide, make_images, score
from transfer.errors import MissingData


def test_the_photo_is_where_the_box_says(tmp_path: Path) -> None:
    photos = []
    for number, colour in enumerate(((255, 0, 0), (0, 0, 255))):
        Image.new("RGB", (60, 40), colour).save(tmp_path / f"{number}.png")
        photos.append([tmp_path / f"{number}.png"])
    pixels, labels, boxes = make_images(photos, 8, 64, np.random.default_rng(1))
    assert pixels.shape == (8, 64, 64, 3) and labels.tolist() == [0, 1] * 4
    for image, label, (left, top, right, bottom) in zip(pixels, labels, boxes, strict=True):
        assert 0.29 < right - left < 0.5 and right - left == pytest.approx(bottom - top)
        inside = image[round(64 * top) + 2 : round(64 * bottom) - 2, round(64 * left) + 2 : round(64 * right) - 2]
        assert (inside == ((255, 0, 0), (0, 0, 255))[label]).all()


def test_maps_are_scored_by_hand() -> None:
    quarter = (0.0, 0.0, 0.5, 0.5)
    on, off, none = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32), -np.ones((2, 2), np.float32)
    on[0, 0], off[1, 1] = 1.0, 1.0
    assert score(none[None], [quarter]) == {
        "maximum_on_photo": 0.0,
        "evidence_on_photo": 0.0,
        "intersection_over_union": 0.0,
    }
    found = score(np.stack([on, off]), [quarter, quarter])
    assert found["maximum_on_photo"] == 0.5
    # Bilinear: 1 up to the centre of its cell, then falling to 0 at that of the next, in both directions.
    line = np.interp((np.arange(128) + 0.5) / 128, [0.25, 0.75], [1.0, 0.0])
    share = (line[:64].sum() / line.sum()) ** 2
    assert found["evidence_on_photo"] == pytest.approx((share + (1 - share**0.5) ** 2) / 2)


def test_a_class_is_divided_and_too_few_classes_are_refused(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "a" / f"{number}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "a" / f"{number}.png").touch()
    first, second = divide(tmp_path / "a", np.random.default_rng(0))
    assert len(first) == 2 and len(second) == 3 and len({*first, *second}) == 5
    with pytest.raises(MissingData, match="1 folders of classes, 6 are needed"):
        class_folders(tmp_path)
