"""The table and the sheet of images with a doubtful label."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfer.commands.suspect_files import name_suspects, write_suspects
from transfer.probe.label_suspects import Suspect

NAMES = ("cat, $fat$", "a\ndog\x1b[31m", "x" * 60)


def rows(count: int) -> Any:
    suspects = [Suspect(image, image % 2, 2 - image % 2, 0.01, 0.98765) for image in range(count)]
    return name_suspects(suspects, NAMES, lambda image: f"photos/{image}_\x07.jpg")


def pixels(row: int) -> Any:
    return np.full((300, 100 + 10 * row, 3), 5 * row, np.uint8)


def test_the_table_has_every_suspect_as_it_is_named(tmp_path: Path) -> None:
    table, sheet = write_suspects(rows(3), pixels, tmp_path)
    with table.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["image"] for row in found] == [f"photos/{image}_\x07.jpg" for image in range(3)]
    assert [(row["label"], row["suggested"]) for row in found[:2]] == [(NAMES[0], NAMES[2]), (NAMES[1], NAMES[1])]
    assert (found[0]["label_probability"], found[0]["suggested_probability"]) == ("0.01", "0.9877")
    with Image.open(sheet) as picture:
        assert picture.width == pytest.approx(3 * 225, abs=2) and picture.height == pytest.approx(285, abs=2)


def test_the_sheet_shows_the_first_forty(tmp_path: Path) -> None:
    asked: list[int] = []

    def noted(row: int) -> Any:
        asked.append(row)
        return pixels(0)

    write_suspects(rows(50), noted, tmp_path)
    assert asked == list(range(40))
    with Image.open(tmp_path / "suspects.png") as picture:
        assert picture.width == 1800 and picture.height == pytest.approx(5 * 285, abs=2)


def test_without_suspects_there_is_no_sheet(tmp_path: Path) -> None:
    assert write_suspects([], pixels, tmp_path) == [tmp_path / "suspects.csv"]
    assert (tmp_path / "suspects.csv").read_text().split() == [
        "image,label,label_probability,suggested,suggested_probability"
    ]
    assert not (tmp_path / "suspects.png").exists()
