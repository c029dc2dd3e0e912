"""What a strict type checker says of a user's code: nothing of the pages', and what is wrong with a wrong option."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import snippets
from tests.support.runs import ROOT, environment

OPTIONS = """
from datamodules import build_datamodule, load_dataset
from transfer import Preprocessing
def right(p: Preprocessing) -> tuple[int, int]:
    data = build_datamodule('digits', preprocessing=p, batch_size=3, val_fraction=0.2)
    return load_dataset('digits', train_on='trainval').num_classes, data.batch_size
def wrong(p: Preprocessing) -> None:
    build_datamodule('digits', preprocessing=p, batch_sise=3)
    load_dataset('digits', train_on=1)
"""


@pytest.mark.slow
def test_the_python_of_the_pages_passes_and_wrong_options_do_not(tmp_path: Path) -> None:
    (tmp_path / "pages.py").write_text("\n".join(snippets()))
    (tmp_path / "options.py").write_text(OPTIONS)
    # With the settings and the cache of `make lint`: without them it would check torch and Lightning anew.
    shared = ("--config-file", str(ROOT / "setup.cfg"), "--cache-dir", str(ROOT / ".mypy_cache"))
    process = subprocess.run(
        [sys.executable, "-m", "mypy", *shared, "pages.py", "options.py"],
        cwd=tmp_path,
        env=environment(MYPYPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = [line.split(": ")[0] for line in process.stdout.splitlines() if ": error:" in line]
    assert wrong == ["options.py:8", "options.py:9"], process.stdout
