"""The pages in a real browser: no error, no request, nothing wider than a phone, tables that sort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="pip install selenium")
from selenium.webdriver.common.by import By

from tests.support.browser import browser
from tests.support.chosen import written_choice
from tests.support.reported import HOSTILE, written_run
from tests.support.results import every_kind_of_cell, save_table
from transfer.commands.report import report
from transfer.report.page import render_page
from transfer.report.run_content import read_run_content

pytestmark = pytest.mark.slow

_TOO_WIDE = """
const wide = [];
for (const element of document.querySelectorAll("body *")) {
  if (element.closest(".wide, svg")) continue;
  if (element.getBoundingClientRect().right > innerWidth + 1) wide.push(element.outerHTML.slice(0, 200));
}
return [document.documentElement.scrollWidth, innerWidth, wide];
"""
_REQUESTS = "return performance.getEntriesByType('resource').map((entry) => entry.name)"


def column(window: Any, table: Any, number: int) -> list[str]:
    return [
        row.find_elements(By.TAG_NAME, "td")[number].text for row in table.find_elements(By.CSS_SELECTOR, "tbody tr")
    ]


def check_page(window: Any, path: Path) -> None:
    """A page asks for nothing, says no error, and is no wider than a phone, in light and in dark."""
    for width, scheme in ((390, "dark"), (1280, "light")):
        window.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        window.get(path.as_uri())
        scrolled, inner, wide = window.execute_script(_TOO_WIDE)
        assert (inner, wide) == (width, []) and scrolled <= width
    assert all(image.get_property("naturalWidth") > 0 for image in window.find_elements(By.TAG_NAME, "img"))
    requests = [name for name in window.execute_script(_REQUESTS) if not name.startswith("data:")]
    assert requests == [] and window.get_log("browser") == []


def test_a_page_of_two_runs_with_hostile_names(tmp_path: Path) -> None:
    names = [*HOSTILE, *(f"a class with a long name, number {i}" for i in range(12)), "x" * 120]
    written_run(tmp_path / "first", names, 200)
    written_run(tmp_path / "other", names, 200, multilabel=True)
    contents = [read_run_content(tmp_path / name) for name in ("first", "other")]
    (tmp_path / "page.html").write_text(render_page(contents), encoding="utf-8")
    with browser() as window:
        check_page(window, tmp_path / "page.html")
        assert window.title.endswith("other") and not window.find_elements(By.CSS_SELECTOR, "img:not([src^='data:'])")
        table = window.find_element(By.CSS_SELECTOR, "#classes table")
        found = table.find_elements(By.CSS_SELECTOR, "thead button")[2]
        shares = []
        for _ in range(2):
            found.click()
            shares.append(
                [-1 if "%" not in cell else float(cell.partition("%")[0]) for cell in column(window, table, 2)]
            )
        assert shares[0] == sorted(shares[0], reverse=True) and shares[1] == sorted(shares[1])
        assert shares[0][0] > shares[0][-1]


def test_the_pages_of_a_choice_and_of_a_table_with_hostile_names(tmp_path: Path) -> None:
    written_choice(tmp_path / "choice", [*HOSTILE, "x" * 120])
    (tmp_path / "table").mkdir()
    save_table(tmp_path / "table", every_kind_of_cell())
    with browser() as window:
        for name, section in (("choice", "networks"), ("table", "results")):
            report([tmp_path / name])
            check_page(window, tmp_path / name / "report.html")
            texts = window.find_elements(By.CSS_SELECTOR, "svg.chart text")
            assert texts and all(text.rect["x"] >= 0 and text.rect["x"] + text.rect["width"] <= 1280 for text in texts)
            table = window.find_element(By.CSS_SELECTOR, f"#{section} table")
            table.find_elements(By.CSS_SELECTOR, "thead button")[0].click()
            assert len(column(window, table, 0)) >= 3
