"""The page's colours: text at 4.5 to 1 and lines at 3 to 1, in light and in dark (WCAG 2.2, AA)."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

STYLE = files("transfer.report").joinpath("templates", "page.css").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
)
MOST_HEAT = {"right": 0.06 + 0.4, "wrong": 0.1 + 0.45}  # of a cell in templates/confusion.html
GROUNDS = {"ink": ("card", "paper"), "soft": ("card", "paper"), "accent": ("card", "paper", "wash")}
GROUNDS |= {"doubt": ("doubt-wash",), "error": ("error-wash",)}


def channels(colour: str) -> list[float]:
    if " " in colour:
        return [float(part) for part in colour.split()]
    digits = colour.removeprefix("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    return [int(digits[at : at + 2], 16) for at in (0, 2, 4)]


def luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_is_that_of_the_guidelines() -> None:
    assert contrast(channels("#000"), channels("#fff")) == pytest.approx(21)
    assert contrast(channels("#767676"), channels("#ffffff")) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("colours", [LIGHT, {**LIGHT, **DARK}], ids=["light", "dark"])
def test_text_and_lines_are_told_from_what_is_behind_them(colours: dict[str, str]) -> None:
    for name, grounds in GROUNDS.items():
        for ground in grounds:
            assert contrast(channels(colours[name]), channels(colours[ground])) >= 4.5, (name, ground)
    card = channels(colours["card"])
    for number in range(4):
        assert contrast(channels(colours[f"series-{number}"]), card) >= 3, number
    for name, heat in MOST_HEAT.items():
        cell = [heat * over + (1 - heat) * under for over, under in zip(channels(colours[name]), card, strict=True)]
        assert contrast(channels(colours["ink"]), cell) >= 4.5, name
