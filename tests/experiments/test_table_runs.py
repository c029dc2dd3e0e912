"""A whole table with real runs: killed and continued, as a job array, and as a sweep."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from tests.support.runs import ROOT, SHARED_DATA, environment, read_weights, run_script, same_weights
from transfer.commands import table as script
from transfer.experiments.table.cells import read_table

SMALL = "b0@d=0.3,w=0.25"
# Runs of seconds: every file is written, nothing is learned.
TINY = (
    *("--pretrained", "false", "--set", "image_size=32", "--set", "trainer.max_steps=2"),
    *("--set", "global_batch_size=16", "--set", "trainer.accelerator=cpu", "--set", "data.num_workers=0"),
)
# What two runs of one cell may differ in.
NOT_COMPARED = ("train_seconds", "gpu_hours", "git_commit")


def plan(out: Path, *words: str | Path) -> None:
    """Without measuring a speed."""
    hardware = {"cpu": "a CPU", "cores": 2, "gpus": []}
    case = {"images_per_second": 100.0}
    speeds = []
    for number, backbone in enumerate(("lite0", SMALL)):
        speeds.append(out.with_name(f"speed{number}.json"))
        content = {"backbone": backbone, "image_size": 32, "hardware": hardware}
        speeds[-1].write_text(json.dumps({**content, "bf16 channels_last": case, "float32 channels_last": case}))
    assert script.main(["plan", str(out), *map(str, words), *TINY, "--benchmarks", *map(str, speeds)]) == 0


def start(*words: str | Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "scripts/table.py", *map(str, words)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment(), **pipe, **options)


def finish(*words: str | Path, timeout: float = 400) -> str:
    process = start(*words)
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def results(out: Path) -> dict[str, dict[str, Any]]:
    """Every result, without what may differ."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("cells/*/result.json"))}
    return {name: {k: v for k, v in result.items() if k not in NOT_COMPARED} for name, result in found.items()}


def taken(out: Path) -> set[str]:
    """The cells that were begun."""
    return {path.parent.name for path in out.glob("cells/*/lock")}


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten classes of ten training and four test pictures: of CIFAR-10 where it is at hand, else of noise."""
    root = tmp_path / "pictures"
    folder = SHARED_DATA / "uoft-cs" / "cifar10" / "plain_text"
    for split, count in (("train", 10), ("test", 4)):
        path = folder / f"{split}-00000-of-00001.parquet"
        left = dict.fromkeys(range(10), count)
        table = pq.ParquetFile(path).iter_batches(200) if path.is_file() else []
        for batch in table:
            for row in batch.to_pylist():
                if left[row["label"]]:
                    left[row["label"]] -= 1
                    place = root / split / str(row["label"])
                    place.mkdir(parents=True, exist_ok=True)
                    (place / f"{left[row['label']]}.jpg").write_bytes(row["img"]["bytes"])
            if not any(left.values()):
                break
        rng = np.random.default_rng(count)
        for label, missing in left.items():
            for index in range(missing):
                place = root / split / str(label)
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(place / f"{index}.png")
    return root


@pytest.mark.slow
def test_a_table_killed_in_the_middle_goes_on_to_the_uninterrupted_one(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    cells = ("--datasets", "digits", "folder", "--data_root", pictures, "--backbones", SMALL, "--seeds", "0")
    grid = ("--grid", "optim.lr=0.3,0.003", "--grid", "optim.weight_decay=0")
    plan(whole, *cells, "--protocols", "kornblith", "sam-paper", *grid)
    killed.mkdir()
    shutil.copy(whole / "table.json", killed)
    assert len(read_table(whole).cells) == 4

    process = start("run", killed, "--workers", "2", start_new_session=True)
    wait_for(lambda: 1 <= len(results(killed)) < len(taken(killed)) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in killed.glob("cells/*/result.json")}
    started = taken(killed)
    assert 1 <= len(done) < 4 and len(started) > len(done)

    output = finish("run", killed, "--workers", "2")
    assert "4 of 4 cells are done" in output
    assert all(path.stat().st_mtime_ns == written for path, written in done.items())  # nothing was computed again
    assert not any(path.parent.name + ":" in output for path in done)

    for path in done:  # these were not interrupted
        shutil.copytree(path.parent, whole / "cells" / path.parent.name)
    finish("run", whole, "--workers", "2")
    continued, uninterrupted = results(killed), results(whole)
    reads = {name: result.pop("test_reads") for name, result in continued.items()}
    assert {result.pop("test_reads") for result in uninterrupted.values()} == {1}
    assert continued == uninterrupted
    # A run that was killed while it read the test split reads it again, and says so.
    assert all(reads[path.parent.name] == 1 for path in done) and set(reads.values()) <= {1, 2}
    for result in uninterrupted.values():
        assert result["status"] == "done"
        assert result["num_trials"] == (2 if result["protocol"] == "kornblith" else 0)
    for name in started - {path.parent.name for path in done}:
        final = Path("cells", name, "final")
        assert same_weights(read_weights(killed / final), read_weights(whole / final))
    assert not list(whole.glob("cells/*/trials/*/*.ckpt"))
    assert script.main(["report", str(killed)]) == 0
    report = capsys.readouterr().out
    assert "folder" in report and "sam-paper" in report


@pytest.mark.slow
def test_submitits_own_executor_runs_the_cells_as_an_array(tmp_path: Path) -> None:
    out = tmp_path / "table"
    plan(out, "--datasets", "digits", "--backbones", SMALL, "--protocols", "sam-paper", "--seeds", "0", "1")
    local = ("--slurm", "cluster=local", "--slurm", "timeout_min=5")
    output = finish("run", out, "--launcher", "slurm", *local)
    assert f"digits_{SMALL}_sam-paper_0: job " in output and "2 cells submitted" in output
    wait_for(lambda: len(results(out)) == 2)
    assert {result["status"] for result in results(out).values()} == {"done"}
    assert len(list((out / "slurm").glob("*_log.out"))) == 2
    assert "2 of 2 cells are done" in finish("run", out, "--launcher", "slurm")


@pytest.mark.slow
def test_two_processes_of_a_sweeps_run_are_one_wandb_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    result = run_script(
        *("--backbone", SMALL, "--pretrained", "false", "--image_size", "32", "--data.num_workers", "0"),
        *("--trainer.max_steps", "2", "--trainer.max_epochs", "-1", "--trainer.limit_val_batches", "1"),
        *("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp", "--logger", "wandb"),
        *("--optim.lr=0.01", "--trainer.limit_test_batches=0", "--out_dir", run_dir),
        # What an agent sets.
        **{"WANDB_MODE": "offline", "WANDB_RUN_ID": "abc123", "WANDB_SWEEP_ID": "sweep1"},
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((run_dir / "results.json").read_text())["world_size"] == 2
    assert [path.name.split("-")[-1] for path in tmp_path.rglob("offline-run-*")] == ["abc123"]


@pytest.mark.slow
def test_a_sweep_file_runs_without_wandb_and_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "sweep.yaml", tmp_path / "runs"
    fixed = {
        "dataset": "digits",
        "backbone": SMALL,
        "pretrained": False,
        "image_size": 32,
        "trainer.max_steps": 2,
        "logger": "wandb",
    }
    fixed |= {"trainer.max_epochs": -1, "data.num_workers": 0, "trainer.limit_test_batches": 0}
    parameters = {name: {"value": value} for name, value in fixed.items()} | {"optim.lr": {"values": [0.01, 0.1]}}
    content = {"program": "scripts/finetune.py", "method": "grid", "parameters": parameters}
    path.write_text(yaml.safe_dump({**content, "metric": {"name": "val/loss", "goal": "minimize"}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        torch.set_num_threads(1)
        assert script.main(["sweep", str(path), "--out_dir", str(out), "--count", "1"]) == 0
        assert "1 run in" in capfd.readouterr().out and not (out / "01").exists()
        written = (out / "00" / "results.json").stat().st_mtime_ns
        assert script.main(["sweep", str(path), "--out_dir", str(out)]) == 0
        output = capfd.readouterr().out
        losses = [json.loads((out / k / "results.json").read_text())["metrics"]["val"]["loss"] for k in ("00", "01")]
        lowest = losses.index(min(losses))
        rows = [line.split() for line in output.splitlines() if line.startswith(" 0")]
        assert rows[0] == [f"0{lowest}", f"{min(losses):.4f}", ["0.01", "0.1"][lowest]]
        assert (out / "00" / "results.json").stat().st_mtime_ns == written
        assert not list(tmp_path.rglob("offline-run-*"))
        assert script.main(["sweep", str(path), "--out_dir", str(out), "--seed", "1"]) == 2
    assert "was planned otherwise; give a new folder, or the same options:\n  seed: 0 -> 1" in capfd.readouterr().err
