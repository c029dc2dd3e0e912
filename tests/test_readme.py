"""The README's Python runs; its commands are ones that exist."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import __main__ as benchmarks
from tests.support.runs import environment
from transfer import __main__ as console
from transfer import commands
from transfer.config.command_line import parse_choose_config, parse_config, parse_probe_config

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [match[3] for match in FENCE.finditer((ROOT / name).read_text()) if match[2] == language]


def command_lines(program: str) -> list[list[str]]:
    """The words after a program's name in every line of the README that calls it."""
    lines = [line.strip() for block in blocks("README.md", "") for line in block.splitlines()]
    calls = [line.removeprefix(program) for line in lines if line.startswith(f"{program} ")]
    return [[word for word in shlex.split(call, comments=True) if word != "..."] for call in calls]


def python() -> str:
    (snippet,) = [block for block in blocks("README.md", "python") if "finetune(" in block]
    return snippet


@pytest.mark.slow
def test_the_readmes_python_runs_without_a_warning_of_ours(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 200).save(tmp_path / "photo.jpg")
    (tmp_path / "snippet.py").write_text(python())
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


@pytest.mark.parametrize("words", command_lines("efficientnet-transfer"), ids=" ".join)
def test_a_command_of_the_readme_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parsers = {"finetune": parse_config, "probe": parse_probe_config, "choose": parse_choose_config}
    if words[0] in parsers:
        parsers[words[0]](words[1:])
        return
    names = [info.name for info in pkgutil.walk_packages(commands.__path__, f"{commands.__name__}.")]
    for module in [importlib.import_module(name) for name in names]:
        if hasattr(module, "exit_status"):
            monkeypatch.setattr(module, "exit_status", lambda *_: 0)
    assert console.main(words) == 0


@pytest.mark.parametrize(
    "call", re.findall(r"`(?:OMP_NUM_THREADS=1 )?python -m benchmarks ([^`]+)`", (ROOT / "README.md").read_text())
)
def test_a_benchmark_of_the_readme_parses(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "exit_status", lambda *_: 0)
    assert benchmarks.main(shlex.split(call)) == 0


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    named = re.findall(
        r"`((?:transfer|datamodules|benchmarks|tests|configs|scripts)/[\w/.*]+)`", (ROOT / page).read_text()
    )
    assert len(named) > 3
    missing = [name for name in named if not list(ROOT.glob(name)) and "test_<file>" not in name]
    assert missing == []


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [verb for verb in console.VERBS if f"efficientnet-transfer {verb}" not in text] == []
