"""What `make` installs: the tested versions, each with the hashes of its files."""

from __future__ import annotations

import re

from tests.support.runs import ROOT


def pins(name: str) -> dict[str, str]:
    """Version of each package in a file of requirements."""
    lines = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


def test_the_lock_has_hashes_of_every_tested_version_but_torch() -> None:
    tested = pins("constraints.txt")
    assert tested.pop("torch") and pins("requirements.lock") == tested
    entries = re.split(r"(?m)^(?=[\w.-]+==)", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert not [entry for entry in entries if "==" in entry and "--hash=sha256:" not in entry]
