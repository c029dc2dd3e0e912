"""A real SLURM cluster, of one machine at least: the cells of a table as an array, and a node that goes down."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.experiments.test_table_runs import SMALL, finish, plan, results, taken, wait_for
from tests.support.runs import read_weights, same_weights


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def idle_nodes() -> list[str]:
    if shutil.which("sinfo") is None:
        return []
    asked = subprocess.run(["sinfo", "-h", "-N", "-t", "idle", "-o", "%N"], capture_output=True, text=True, check=False)
    return asked.stdout.split()


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(len(idle_nodes()) < 2, reason="no SLURM cluster with two idle nodes here"),
]
CELLS = ("--datasets", "digits", "--backbones", SMALL, "--protocols", "kornblith", "sam-paper", "--seeds", "0", "1")
GRID = ("--grid", "optim.lr=0.3,0.003", "--grid", "optim.weight_decay=0")
ARRAY = ("--launcher", "slurm", "--slurm", "timeout_min=10", "--slurm", "cpus_per_task=1")


@pytest.fixture
def fallible_node() -> Iterator[str]:
    """A node that a test may set down; it comes back."""
    node = idle_nodes()[-1]
    yield node
    if "down" in slurm("sinfo", "-h", "-n", node, "-o", "%T"):
        slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")


def test_the_cells_of_a_node_that_goes_down_are_computed_by_another(tmp_path: Path, fallible_node: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    plan(whole, *CELLS, *GRID)
    killed.mkdir()
    shutil.copy(whole / "table.json", killed)
    finish("run", killed, *ARRAY)

    wait_for(lambda: len(taken(killed)) == 2 and any(killed.glob("cells/*/trials/*/results.json")))
    lost = slurm("squeue", "-h", "-w", fallible_node, "-o", "%F_%K")
    slurm("scontrol", "update", f"NodeName={fallible_node}", "State=DOWN", "Reason=rehearsal")
    assert lost in slurm("squeue", "-h", "-r", "-t", "PENDING", "-o", "%F_%K").splitlines()
    wait_for(lambda: len(results(killed)) == 4, 600)

    finish("run", whole, "--workers", "2")
    continued, uninterrupted = results(killed), results(whole)
    for result in continued.values():
        assert result.pop("test_reads") in (1, 2)  # 2 where the node went down while it read the test split
    assert {result.pop("test_reads") for result in uninterrupted.values()} == {1}
    assert continued == uninterrupted and {result["status"] for result in continued.values()} == {"done"}
    for cell in (killed / "cells").iterdir():
        assert same_weights(read_weights(cell / "final"), read_weights(whole / "cells" / cell.name / "final"))
