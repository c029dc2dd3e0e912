"""A run that is killed at any moment, and resumed, writes the files of an uninterrupted one to the last bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.support.kills import MOMENTS, SCENARIOS
from tests.support.runs import ROOT, environment

pytestmark = pytest.mark.slow
Outcomes = list[dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    command = [sys.executable, "-m", "tests.support.kills", str(tmp_path_factory.mktemp("kills"))]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_any_moment_it_ends_as_without(outcomes: Outcomes, scenario: str) -> None:
    killed = [run for run in outcomes if (run["scenario"], run["number"]) == (scenario, signal.SIGKILL)]
    assert {run["at"]: run["differences"] for run in killed if run["differences"]} == {}
    assert [run["status"] for run in killed] == [-signal.SIGKILL] * MOMENTS[scenario]


def test_forty_moments_are_of_every_kind(outcomes: Outcomes) -> None:
    killed = [run["moment"] for run in outcomes if run["number"] == signal.SIGKILL]
    assert len(killed) == 40
    kinds = ("os.mkdir run", "open ", "os.rename ", "os.remove ", "training_step", "validation_step")
    assert not [kind for kind in kinds if not any(moment.startswith(kind) for moment in killed)]


@pytest.mark.parametrize("moment", ["validation_step", "test_step"])
def test_sigterm_in_a_validation_or_the_test_has_its_status_and_a_way_to_go_on(outcomes: Outcomes, moment: str) -> None:
    stopped = [run for run in outcomes if (run["number"], run["moment"]) == (signal.SIGTERM, moment)]
    assert len(stopped) >= 3
    assert {run["at"]: run["differences"] for run in stopped if run["differences"]} == {}
    assert {run["status"] for run in stopped} == {128 + signal.SIGTERM}
