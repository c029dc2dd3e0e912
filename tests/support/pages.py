"""The pages that users read: README, CONTRIBUTING and docs/, and what stands in their fenced blocks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language; `python` is run by tests, `py` only read."""
    return [dedent(match[3]) for match in _FENCE.finditer(page.read_text(encoding="utf-8")) if match[2] == language]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def snippets() -> list[str]:
    """Each piece of Python that users are to run, once."""
    return list(dict.fromkeys(block for page in PAGES for block in blocks(page, "python")))


def command_lines() -> list[list[str]]:
    """The words after the program's name in every line that calls it, each once."""
    lines = [
        line
        for page in PAGES
        for block in blocks(page, "")
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
        if not line.startswith("#")
    ]
    calls = [match[1] for line in lines if (match := re.search(r"(?:^|srun )efficientnet-transfer (.+)", line.strip()))]
    calls += [match[1] for line in lines if (match := re.search(r"-m transfer (.+)", line))]
    return [[word for word in shlex.split(call, comments=True) if word != "..."] for call in dict.fromkeys(calls)]
