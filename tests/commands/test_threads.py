"""How threads wait: what is set, and that it is set before torch is there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.runs import ROOT, environment
from transfer.__main__ import VERBS
from transfer.commands.threads import share_cores


@pytest.mark.parametrize(
    ("given", "set_to"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_how(
    given: dict[str, str], set_to: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what is set is undone too
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    share_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == set_to


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_says_so_before_torch_is_imported(verb: str) -> None:
    code = f"""
import os, sys
from transfer.__main__ import main
try:
    main(["{verb}", "--nothing"])
except SystemExit:
    pass
print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout == "1000 False\n", done.stderr
