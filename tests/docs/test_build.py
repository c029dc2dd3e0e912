"""The pages as Sphinx builds them: without a warning, and with what is made from the code."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path

import pytest
from sphinx.cmd.build import build_main

import datamodules
import transfer
from tests.support.pages import DOCS, ROOT
from transfer import __main__ as console
from transfer.config.schema import FinetuneConfig

# Sphinx announces what its extensions will have to change.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages; the build fails on the first warning, such as a link that leads nowhere."""
    out = tmp_path_factory.mktemp("pages")
    assert build_main(["-q", "-W", "-b", "html", "-d", str(out / "trees"), str(ROOT / "docs"), str(out)]) == 0
    return out


def text(page: Path) -> str:
    """What a reader sees of a page."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_page_is_built_without_a_warning(built: Path) -> None:
    names = [page.relative_to(ROOT / "docs").with_suffix(".html") for page in DOCS]
    assert [name for name in names if not (built / name).is_file()] == []


def test_the_reference_has_every_field_with_its_default(built: Path) -> None:
    shown = text(built / "reference" / "config.html")
    config = FinetuneConfig()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names = [f"{field.name}.{inner.name} = " for inner in dataclasses.fields(value)]
        else:
            names = [f"{field.name} = {'unset' if value is None else str(value).lower()}"]
        assert [name for name in names if name not in shown] == []


def test_the_reference_has_every_verb_and_public_name(built: Path) -> None:
    sections = re.findall(r"<h2>(\w+)", (built / "reference" / "command_line.html").read_text())
    assert sections == list(console.VERBS)
    names = re.findall(r'id="(transfer\.\w+|datamodules\.\w+)"', (built / "reference" / "python.html").read_text())
    assert set(names) == {f"transfer.{name}" for name in transfer.__all__} | {
        f"datamodules.{name}" for name in datamodules.__all__
    }


def test_no_page_needs_the_network(built: Path) -> None:
    """Addresses are only linked to: nothing is fetched from them when a page is opened."""
    for page in built.rglob("*.html"):
        assert re.findall(r'(?:src|<link[^>]*href)="(https?:[^"]+)"', page.read_text(encoding="utf-8")) == []
