"""efficientnet-transfer costs --plan --devices: bytes, the step of all devices, and flags without effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transfer.commands import costs
from transfer.costs.memory import training_memory
from transfer.weights.build import build_classifier

TINY = "lite0@w=0.25,d=0.25"
SMALL = (TINY, "--plan", "--image_size", "32", "--memory", "4GiB")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def plan(*argv: str) -> dict[str, Any]:
    """The values of the plan, and where they are from as `<name>, from`."""
    assert costs.main([*SMALL, *argv, "--json", "figures.json"]) == 0
    rows = json.loads(Path("figures.json").read_text(encoding="utf-8"))["plan"]
    return {name: row["value"] for name, row in rows.items()} | {f"{n}, from": row["from"] for n, row in rows.items()}


def test_machines_with_several_devices(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(
        *("--devices", "8", "--nodes", "4", "--images_per_second", "2000", "--bandwidth", "nvlink4", "20GB"),
        *("--batch_size", "100", "--num_images", "64000", "--epochs", "9"),
    )
    network = build_classifier(TINY, 1000)
    size = sum(4 * parameter.numel() for parameter in network.parameters())
    assert found["gradients"] == size and found["devices"] == 32
    assert found["a device sends"] == 2 * 7 / 8 * size and found["a machine sends"] == 2 * 3 / 4 * size
    assert found["BatchNorm's statistics"] == sum(buffer.nbytes for buffer in network.buffers())
    assert found["memory, fixed"] == training_memory(network, 32).fixed + size
    assert (found["between devices"], found["between machines"]) == (450e9, 20e9)
    assert found["between devices, from"].startswith("assumed: ") and "H100" in found["between devices, from"]
    assert found["between machines, from"].startswith("given; latency assumed")
    assert found["step of one device"] == pytest.approx(100 / 2000)
    assert 0 < found["backward pass"] < 100 / 2000
    assert 0 < found["exposed"] <= found["communication"]
    assert found["step"] == pytest.approx(found["step of one device"] + found["exposed"])
    assert found["efficiency"] == pytest.approx(found["step of one device"] / found["step"])
    assert found["speed of all devices"] == pytest.approx(32 * 100 / found["step"])
    assert found["training"] == pytest.approx(64000 * 9 / found["speed of all devices"] / 3600)
    kinds = [found[f"{name}, from"].partition(" ")[0].rstrip(",:") for name in ("speed", "gradients", "step")]
    assert kinds == ["given", "counted", "simulated"] and "measured" in found["backward pass, from"]
    shown = capsys.readouterr().out
    assert "4 machines with 8 each" in shown and "450 GB/s" in shown and f"{found['efficiency']:.1%}" in shown


def test_joined_batch_norms_take_longer() -> None:
    options = ("--devices", "4", "--images_per_second", "2000")
    found, apart = plan(*options, "--sync_batchnorm"), plan(*options)
    layers = sum(type(module).__name__ == "BatchNorm2d" for module in build_classifier(TINY, 5).modules())
    assert f"{2 * layers} messages" in found["sync_batchnorm adds, from"]
    assert found["sync_batchnorm adds"] > 2 * layers * 3 * 5.7e-6
    assert found["step"] == pytest.approx(found["step of one device"] + found["exposed"] + found["sync_batchnorm adds"])
    assert "sync_batchnorm adds" not in apart and "between machines" not in found
    assert found["between devices, from"].startswith("assumed: 16 lanes of 16 GT/s")


def test_one_device_of_each_machine_has_one_connection_and_accumulates() -> None:
    memory = training_memory(build_classifier(TINY, 1000), 32)
    size = memory.total(25) + 4 * sum(p.numel() for p in build_classifier(TINY, 1000).parameters())
    found = plan("--nodes", "2", "--bandwidth", "ethernet10", "--batch_size", "50", "--memory", f"{size}B")
    assert found["largest batch"] == 25 and found["between machines"] == 1.25e9 and "a device sends" not in found
    assert found["speed, from"].startswith("measured on 1 thread of ")
    assert found["step of one device"] == pytest.approx(50 / found["speed"])
    assert found["backward pass"] < found["step of one device"] / 2  # of the second of two batches


def test_one_device_sends_nothing() -> None:
    found = plan("--devices", "1", "--images_per_second", "100", "--sync_batchnorm")
    assert found["efficiency"] == 1 and found["exposed"] == found["sync_batchnorm adds"] == 0
    assert found["memory, fixed"] == training_memory(build_classifier(TINY, 1000), 32).fixed


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--benchmarks", "speed.json"], ["--benchmarks", "--num_images", "--trainer.devices"]),
        (["--images_per_second", "7"], ["--images_per_second", "--num_images"]),
        (["--threads", "1"], ["--threads", "--num_images"]),
        (["--device", "cpu"], ["--device", "--num_images"]),
        (["--bandwidth", "pcie4"], ["--bandwidth", "--trainer.num_nodes"]),
        (["--sync_batchnorm"], ["--trainer.sync_batchnorm", "--trainer.num_nodes"]),
        (["--devices", "2", "--benchmarks", "a.json", "--images_per_second", "7"], ["--benchmarks", "leave out one"]),
        (
            ["--num_images", "9", "--epochs", "1", "--images_per_second", "7", "--threads", "1"],
            ["--threads", "leave out one"],
        ),
        (["--devices", "2", "--bandwidth", "pcie4", "ethernet10"], ["--bandwidth", "2 values", "allowed: 1"]),
        (["--devices", "2", "--nodes", "2", "--bandwidth", "pcie4"], ["--bandwidth", "1 values", "allowed: 2"]),
        (["--devices", "2", "--bandwidth", "nvlink"], ["--bandwidth", "nvlink4", "20GB"]),
    ],
)
def test_a_flag_without_effect_is_refused(
    argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert costs.main([*SMALL, *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert all(word in error for word in words), error


@pytest.mark.parametrize("flag", ["--devices", "--nodes", "--images_per_second"])
@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_numbers_are_above_zero(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        costs.main([*SMALL, flag, value])
    assert end.value.code == 2 and flag in capsys.readouterr().err
