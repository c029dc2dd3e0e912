"""A run's folder: its number, its agreement between processes, and a network rebuilt from it alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import build_datamodule
from tests.commands.test_finetune import CHEAP, call, read_results
from transfer.commands import finetune
from transfer.config.schema import FinetuneConfig
from transfer.errors import UserError
from transfer.networks import classifier
from transfer.runs.folder import (
    RUN_DIR_VARIABLE,
    check_disk_space,
    choose_run_dir,
    count_test_read,
    is_main_process,
    load_run,
    num_test_reads,
    read_classifier_state,
    read_predictions,
    save_predictions,
)
from transfer.weights import downloads

FOREIGN = (RUN_DIR_VARIABLE, "SLURM_JOB_ID", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", "WORLD_SIZE", "RANK", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that nobody else started, in an empty folder."""
    for name in (*FOREIGN, "NODE_RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


CONFIG = FinetuneConfig(dataset="flowers", backbone="b7")


def test_the_first_run_is_number_one_and_nothing_is_made_yet(tmp_path: Path) -> None:
    assert choose_run_dir(CONFIG) == Path("runs/flowers_b7/1")
    assert list(tmp_path.iterdir()) == []
    assert os.environ[RUN_DIR_VARIABLE] == str(tmp_path / "runs" / "flowers_b7" / "1")


def test_the_next_number_is_above_the_highest_and_others_do_not_count(tmp_path: Path) -> None:
    for name in ("flowers_b7/2", "flowers_b7/10", "flowers_b7/11-old", "flowers_b7/best", "pets_b7/40"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert choose_run_dir(CONFIG) == Path("runs/flowers_b7/11")
    assert choose_run_dir(FinetuneConfig(dataset="pets", backbone="b7")) == Path("runs/pets_b7/41")


def test_the_runs_of_a_sweep_have_its_agents_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "83412")
    monkeypatch.setenv("WANDB_RUN_ID", "x1y2")
    assert choose_run_dir(CONFIG) == Path("runs/flowers_b7/83412")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s3")
    assert choose_run_dir(CONFIG) == Path("runs/flowers_b7/x1y2")


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"])
def test_processes_of_a_scheduler_agree_on_its_job_id(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "83412")
    for rank in ("0", "1"):
        monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert choose_run_dir(CONFIG) == Path("runs/flowers_b7/83412")


def test_processes_that_cannot_agree_must_be_given_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # what torchrun says when it was given no --rdzv_id
    with pytest.raises(UserError, match="started by hand cannot agree on a run's number: pass --out_dir"):
        choose_run_dir(CONFIG)
    assert choose_run_dir(FinetuneConfig(out_dir="mine")) == Path("mine")


def test_a_child_process_inherits_its_parents_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose_run_dir(CONFIG)
    chosen.mkdir(parents=True)
    (chosen / "config.yaml").write_text("")
    (chosen / "metrics.csv").write_text("")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.chdir("/")  # a child may start elsewhere
    assert choose_run_dir(CONFIG) == tmp_path / chosen
    assert choose_run_dir(FinetuneConfig(out_dir=str(tmp_path / "other"))) == tmp_path / chosen


def test_a_later_run_in_the_same_process_does_not_inherit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, "/somewhere/else")
    assert choose_run_dir(CONFIG) == Path("runs/flowers_b7/1")


def test_a_folder_of_its_own_may_be_missing_empty_or_never_begun(tmp_path: Path) -> None:
    config = FinetuneConfig(out_dir=str(tmp_path / "own"))
    assert choose_run_dir(config) == tmp_path / "own"
    (tmp_path / "own").mkdir()
    assert choose_run_dir(config) == tmp_path / "own"
    (tmp_path / "own" / "config.yaml").write_text("seed: 1\n")
    assert choose_run_dir(config) == tmp_path / "own"


@pytest.mark.parametrize("name", ["last.ckpt", "notes.txt", ".hidden"])
def test_a_folder_with_anything_else_in_it_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / name).write_text("mine")
    with pytest.raises(UserError, match=f"own is not empty; .* go on with that run: --resume {tmp_path}/own"):
        choose_run_dir(FinetuneConfig(out_dir=str(tmp_path / "own")))
    assert (tmp_path / "own" / name).read_text() == "mine"
    assert RUN_DIR_VARIABLE not in os.environ


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("mine")
    with pytest.raises(UserError, match="own is not empty"):
        choose_run_dir(FinetuneConfig(out_dir=str(tmp_path / "own")))


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"])
def test_the_main_process_has_rank_zero_everywhere(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_main_process()
    monkeypatch.setenv(variable, "0")
    assert is_main_process()
    monkeypatch.setenv(variable, "1")
    assert not is_main_process()


def test_disk_space_counts_48_bytes_a_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 48 * 10_000_000
    asked: list[Any] = []

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return shutil._ntuple_diskusage(2 * free, free, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    check_disk_space(tmp_path, 10_000_000)
    message = f"{tmp_path}: 458 MiB free, about 458 MiB are needed for checkpoints: free some space"
    with pytest.raises(UserError, match=message):
        check_disk_space(tmp_path, 10_000_001)
    assert asked == [tmp_path, tmp_path]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cheap run with everything that load_run must not forget: another head, EMA, dropout."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    argv = ("--head", "mlp", "--ema_half_life", "0.2", "--dropout", "0.3")
    assert call(finetune.main, *CHEAP, *argv, "--out_dir", run_dir) == 0
    return run_dir


def forbid(*_: Any, **__: Any) -> None:
    raise AssertionError("this must not be asked for")


@pytest.mark.slow
def test_a_run_comes_back_without_network_and_weights_package(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = read_results(run_dir)
    for name in ("fetch_weights", "find_weights", "file_sha256"):
        monkeypatch.setattr(downloads, name, forbid)
    monkeypatch.setattr(classifier, "read_weights", forbid)
    monkeypatch.setattr(socket.socket, "connect", forbid)
    run = load_run(run_dir)
    assert run.config.to_dict() == results["config"]
    assert run.class_names == tuple("0123456789")
    assert not run.classifier.training and not any(module.training for module in run.classifier.modules())
    # lite0's published preprocessing, at the run's size: (x - 127) / 128, bicubic, 224 / 256 of the image.
    assert (run.preprocessing.image_size, run.preprocessing.interpolation) == (32, "bicubic")
    assert run.preprocessing.crop_ratio == pytest.approx(0.875)
    assert run.preprocessing.mean == pytest.approx([127 / 255] * 3)
    assert run.preprocessing.std == pytest.approx([128 / 255] * 3)
    assert run.data["fingerprint"] == {name: split["fingerprint"] for name, split in results["splits"].items()}


@pytest.mark.slow
def test_the_rebuilt_network_has_the_runs_accuracy(run_dir: Path) -> None:
    run = load_run(str(run_dir))
    data = build_datamodule("digits", preprocessing=run.preprocessing, num_workers=0)
    right = 0
    with torch.inference_mode():
        for images, labels in data.test_dataloader():
            logits = run.classifier(data.normalize(images))
            right += int((logits.argmax(1) == labels).sum())
    assert right / 360 == pytest.approx(read_results(run_dir)["metrics"]["test"]["top1"], abs=1e-6)


@pytest.mark.slow
def test_the_tensors_are_the_averaged_ones_of_the_checkpoint(run_dir: Path) -> None:
    content = torch.load(run_dir / "best.ckpt", weights_only=True)
    averaged = {key.removeprefix("classifier."): value for key, value in content["state_dict"].items()}
    loaded = load_run(run_dir).classifier.state_dict()
    assert all(torch.equal(loaded[key], averaged[key]) for key in loaded) and len(loaded) > 100
    state = read_classifier_state(run_dir / "best.ckpt")
    assert state.keys() == loaded.keys()
    raw = content["current_model_state"]
    assert any(not torch.equal(raw[key], content["state_dict"][key]) for key in raw if key.endswith("weight"))


@pytest.mark.slow
def test_best_and_last_are_different_checkpoints(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run")
    content = torch.load(copy / "last.ckpt", weights_only=True)
    key = next(
        key for key in content["state_dict"] if key.endswith("head.2.bias") or ("head" in key and key.endswith("bias"))
    )
    content["state_dict"][key] += 1.0
    torch.save(content, copy / "last.ckpt")
    name = key.removeprefix("classifier.")
    best, last = (load_run(copy, checkpoint).classifier.state_dict()[name] for checkpoint in ("best.ckpt", "last.ckpt"))
    original = load_run(run_dir, "last.ckpt").classifier.state_dict()[name]
    assert torch.equal(last, original + 1.0)
    assert torch.equal(best, load_run(run_dir).classifier.state_dict()[name])


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run")
    content = (copy / "best.ckpt").read_bytes()
    other = "it is damaged or of another kind"
    for damaged, reason in ((content[: len(content) // 2], other), (b"", "it is empty"), (b"not a checkpoint", other)):
        (copy / "best.ckpt").write_bytes(damaged)
        with pytest.raises(
            UserError, match=rf"run/best\.ckpt: not a safetensors, npz or PyTorch checkpoint \({reason}"
        ):
            load_run(copy)


@pytest.mark.slow
def test_a_checkpoint_that_is_not_of_this_project_is_named(run_dir: Path, tmp_path: Path) -> None:
    shutil.copy(run_dir / "config.yaml", tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "best.ckpt")
    with pytest.raises(
        UserError, match=r"best\.ckpt: not a checkpoint of efficientnet-transfer finetune \(it names no classes\)"
    ):
        load_run(tmp_path)


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_told_by_its_tensors(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run")
    recipe = (copy / "config.yaml").read_text()
    assert "head: mlp\n" in recipe
    (copy / "config.yaml").write_text(recipe.replace("head: mlp\n", "head: linear\n"))
    with pytest.raises(UserError, match=r"best\.ckpt does not fit the network"):
        load_run(copy)


@pytest.mark.slow
def test_what_is_missing_is_named(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run: it has no config\.yaml"):
        load_run(tmp_path)
    shutil.copy(run_dir / "config.yaml", tmp_path)
    with pytest.raises(UserError, match=r"has no last\.ckpt: the run stopped before its first validation; --resume it"):
        load_run(tmp_path, "last.ckpt")


def test_readings_of_the_test_split_are_counted(tmp_path: Path) -> None:
    assert num_test_reads(tmp_path) == 0 and list(tmp_path.iterdir()) == []
    assert [count_test_read(tmp_path) for _ in range(3)] == [1, 2, 3]
    assert json.loads((tmp_path / "test_reads.json").read_text()) == {"reads": 3} and num_test_reads(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["test_reads.json"]
    for text in ("", "[]", '{"reads": null}', "{}"):
        (tmp_path / "test_reads.json").write_text(text)
        with pytest.raises(UserError, match=r"test_reads.json: damaged \(expected: "):
            count_test_read(tmp_path)


def test_predictions_round_trip_in_plain_arrays(tmp_path: Path) -> None:
    save_predictions(tmp_path, torch.tensor([[0, 1], [2, 2], [1, 0]]))
    labels, predictions = read_predictions(tmp_path)
    assert (labels.tolist(), predictions.tolist()) == ([0, 2, 1], [1, 2, 0])
    assert [path.name for path in tmp_path.iterdir()] == ["test_predictions.npz"]


def test_predictions_that_are_missing_or_damaged_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no test_predictions.npz: it read no or only a part of a test split"):
        read_predictions(tmp_path)
    path = tmp_path / "test_predictions.npz"
    for content in (b"", b"PK\3\4 half a file", b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"test_predictions.npz: damaged"):
            read_predictions(tmp_path)
    objects = np.array([print, print], dtype=object)  # would be unpickled code
    for arrays in (
        {"label": objects, "prediction": objects},
        {"label": np.zeros(3)},
        {"label": np.zeros(3), "prediction": np.zeros(4)},
        {"label": np.zeros(0), "prediction": np.zeros(0)},
    ):
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=r"test_predictions.npz: damaged"):
            read_predictions(tmp_path)
