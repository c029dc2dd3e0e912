"""What the pages tell users to do can be done: Python runs, commands and flags exist, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import __main__ as benchmarks
from docs.generate import accuracy, reference, speed
from tests.support.pages import DOCS, PAGES, ROOT, blocks, command_lines, prose, snippets
from tests.support.runs import environment
from transfer import __main__ as console
from transfer import commands
from transfer.config.command_line import parse_choose_config, parse_config, parse_probe_config
from transfer.config.recipes import split_resume

_WITH_PATHS = [*PAGES, ROOT / "CONTRIBUTING.md"]
_BENCHMARK = re.compile(r"`?(?:OMP_NUM_THREADS=1 )?python -m benchmarks ([^`]+)`?")
# Flags of other programs, and what stands for a flag.
_FOREIGN_FLAGS = {"--help"}


@pytest.mark.slow
def test_the_python_of_the_pages_runs_without_a_warning_of_ours(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 200).save(tmp_path / "photo.jpg")
    (tmp_path / "snippet.py").write_text("\n".join(snippets()))
    process = subprocess.run(
        [sys.executable, "-W", "always", "snippet.py"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert "runs/digits_lite0/1" in process.stdout
    ours = [line for line in process.stderr.splitlines() if str(ROOT / "transfer") in line or "datamodules/" in line]
    assert len(ours) == 1 and "fine-tuning ended below the linear probe" in ours[0]  # one epoch is short


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_that_is_not_run_is_python(page: Path) -> None:
    for block in blocks(page, "py"):
        ast.parse(block)


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_a_command_of_the_pages_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parsers = {"finetune": parse_config, "probe": parse_probe_config, "choose": parse_choose_config}
    if words[0] in parsers:
        _, _, rest = split_resume(words[1:])  # there is no such run here
        parsers[words[0]](rest)
        return
    names = [info.name for info in pkgutil.walk_packages(commands.__path__, f"{commands.__name__}.")]
    for module in [importlib.import_module(name) for name in names]:
        if hasattr(module, "exit_status"):
            monkeypatch.setattr(module, "exit_status", lambda *_: 0)
    assert console.main(words) == 0


def benchmark_calls() -> list[str]:
    """The words after `python -m benchmarks` on the pages and in the measurements."""
    measured = [row.command for row in (*accuracy.MEASUREMENTS, *speed.MEASUREMENTS)]
    calls = [call for page in PAGES for call in _BENCHMARK.findall(page.read_text(encoding="utf-8"))]
    return sorted({*calls, *(call for command in measured for call in _BENCHMARK.findall(command))})


@pytest.mark.parametrize("call", benchmark_calls())
def test_a_benchmark_of_the_pages_parses(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "exit_status", lambda *_: 0)
    assert benchmarks.main(shlex.split(call)) == 0


@cache
def known_flags() -> frozenset[str]:
    """Every flag of every verb."""
    parsers = [parser for verb in console.VERBS for parser in reference.parsers(verb)]
    return frozenset(option for parser in parsers for action in parser._actions for option in action.option_strings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_flag_that_a_page_names_exists(page: Path) -> None:
    spans = [
        span for span in re.findall(r"`([^`\n]+)`", prose(page)) if re.match(r"--|efficientnet-transfer |\w+ --", span)
    ]
    named = {word.partition("=")[0] for span in spans for word in span.split() if word.startswith("--")}
    assert named - known_flags() - _FOREIGN_FLAGS == set()


@pytest.mark.parametrize("page", _WITH_PATHS, ids=lambda page: page.stem)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(
        r"`((?:transfer|datamodules|benchmarks|tests|configs|scripts|docs|examples)/[\w/.*]+)`",
        page.read_text(encoding="utf-8"),
    )
    missing = [name for name in named if not list(ROOT.glob(name)) and "test_<file>" not in name]
    assert missing == []


@pytest.mark.parametrize("page", _WITH_PATHS[:1] + _WITH_PATHS[-1:], ids=lambda page: page.stem)
def test_the_links_of_a_page_outside_docs_lead_to_files(page: Path) -> None:
    targets = [
        target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")) if ":" not in target
    ]
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 130
    first_screen = "\n".join(text.splitlines()[:30])
    assert "finetune --data_root photos/" in first_screen and "predict runs/photos_lite0/1" in first_screen
    pages = {str(page.relative_to(ROOT)) for page in DOCS} - {"docs/index.md"}
    assert pages - set(re.findall(r"\]\((docs/[^)#]+)", text)) == set()


def test_every_verb_is_on_a_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [verb for verb in console.VERBS if f"efficientnet-transfer {verb}" not in text] == []


def test_each_message_of_troubleshooting_is_one_of_ours() -> None:
    sources = [path.read_text() for room in ("transfer", "datamodules") for path in (ROOT / room).rglob("*.py")]
    joined = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    texts = re.sub(r"`(\w+)`", r"\1", joined).replace("{CALIBRATION}", "calibration.safetensors")
    messages = re.findall(r"^`([^`]+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(messages) > 20 and [message for message in messages if message not in texts] == []
