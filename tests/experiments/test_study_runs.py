"""A grid search with real runs: killed and continued, with one worker and with two, and in W&B."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.runs import ROOT, environment
from transfer.commands import scale as script
from transfer.experiments.scaling.outcomes import Outcome, read_outcomes
from transfer.experiments.scaling.plan import read_study

# Two networks, two seeds, four steps in two epochs each.
TINY = (
    *("--baseline", "lite0", "--spacing", "1", "0.4", "0.3", "--seeds", "0", "1", "--image_size", "32", "--steps", "4"),
    *("--set", "trainer.accelerator=cpu", "--set", "trainer.limit_train_batches=2", "--set", "data.batch_size=8"),
    *("--set", "trainer.limit_val_batches=2", "--set", "trainer.check_val_every_n_epoch=1"),
)


def found(out: Path) -> dict[str, Outcome]:
    return read_outcomes(out, read_study(out))


def half_done(out: Path) -> set[str]:
    """Runs that have a checkpoint and no results."""
    return {path.parent.name for path in out.glob("runs/*/last.ckpt") if not (path.parent / "results.json").exists()}


@pytest.mark.slow
def test_a_search_killed_in_the_middle_goes_on_to_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    torch.set_num_threads(1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert script.main(["search", str(whole), *TINY, "--logger", "wandb"]) == 0

    words = [sys.executable, "scripts/scale.py", "search", str(killed), *TINY, "--workers", "2"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, cwd=ROOT, env=environment(), start_new_session=True, **pipes)
    end = time.monotonic() + 300
    while process.poll() is None and not half_done(killed):
        assert time.monotonic() < end, "no run has a checkpoint"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(found(killed)) < 4 and half_done(killed)
    before = {path: path.stat().st_mtime_ns for path in killed.glob("runs/*.json")}

    assert script.main(["search", str(killed), "--workers", "2"]) == 0
    assert "4 of 4 planned runs are done" in capfd.readouterr().out
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert {name: outcome.metrics for name, outcome in found(killed).items()} == {
        name: outcome.metrics for name, outcome in found(whole).items()
    }
    assert len({outcome.metrics["loss"] for outcome in found(whole).values()}) == 4
    assert not list(tmp_path.glob("*/runs/*/*.ckpt")) and not list(tmp_path.glob("*/runs/*/test_reads.json"))
    assert (whole / "report.csv").read_text() == (killed / "report.csv").read_text()
    logged = list(whole.glob("runs/*/wandb/offline-run-*"))
    assert len(logged) == 4 and not list(killed.glob("runs/*/wandb"))
    records = b"".join(path.read_bytes() for folder in logged for path in folder.glob("*.wandb"))
    # The group and the runs' names, each after its length, as protocol buffers have it.
    assert all(bytes([len(name)]) + name.encode() in records for name in ("whole", *found(whole)))
