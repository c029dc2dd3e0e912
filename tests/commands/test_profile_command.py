"""efficientnet-transfer costs: what it prints and writes; the figures themselves belong to the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as benchmark
from benchmarks import memory_prediction as benchmark_memory_prediction
from tests.support.runs import untrained_run
from transfer.commands import costs as profile
from transfer.commands.process import keep_freed_memory
from transfer.costs.counts import count_macs
from transfer.costs.memory import inference_memory, training_memory
from transfer.costs.speed import find_speed, read_benchmarks
from transfer.errors import UserError
from transfer.networks import bfloat16
from transfer.networks.registry import get_backbone
from transfer.weights.build import build_classifier

ROOT = Path(__file__).parents[2]
TINY = "lite0@w=0.25,d=0.25"
BENCHMARK = {
    "backbone": TINY,
    "image_size": 32,
    "hardware": {"gpus": [], "cores": 2, "cpu": "Abacus"},
    "float32 channels_last": {"images_per_second": 50.0},
    "bf16 channels_last": {"images_per_second": 1.0},
}


def run(*argv: Any) -> dict[str, Any]:
    """The figures that the command writes, into the folder that it is called in."""
    assert profile.main([*map(str, argv), "--json", "figures.json"]) == 0
    return json.loads(Path("figures.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def test_a_network_is_shown_part_by_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(*given: Any, **more: Any) -> int:
        asked.append((given[1:], more["training"], more["threads"]))
        return 2**20

    monkeypatch.setattr("transfer.costs.peak_memory.measure_peak", measure)
    options = ("--image_size", 32, "--batch_size", 3, "--num_classes", 5, "--runs", 2, "--threads", 1)
    figures = run(TINY, *options, "--measure_memory")
    network = build_classifier(TINY, 5)
    assert figures["num_parameters"] == sum(p.numel() for p in network.parameters())
    assert figures["macs"] == count_macs(get_backbone(TINY), 32, 5) == sum(p["macs"] for p in figures["parts"])
    assert figures["training_bytes"] == training_memory(network, 32).total(3)
    assert figures["inference_bytes"] == inference_memory(network, 32, 3)
    assert [latency["batch_size"] for latency in figures["latency"]] == [1, 3]
    names = [part["part"] for part in figures["parts"]]
    assert names == ["stem", *(f"stage {number}" for number in range(1, 8)), "top", "classifier"]
    assert list(figures["latency"][0]["part_ms"]) == names
    shown = capsys.readouterr().out
    assert all(f"\n {name} " in shown for name in names) and f"{figures['macs']:,}" in shown
    assert "memory, training, batch 3: " in shown and shown.count(" predicted, measured 1 MiB") == 2
    assert "latency, batch 3: " in shown and "2 runs, 1 thread of " in shown
    assert asked == [((32, 3), True, 1), ((32, 3), False, 1)]
    assert figures["measured_bytes"] == {"training": 2**20, "inference": 2**20}


def test_the_network_of_a_run_has_its_head_its_classes_and_its_image_size(folder: Path) -> None:
    untrained_run(folder / "run", ["cat", "dog", "owl"])
    figures = run("run", "--runs", 1, "--threads", 1, "--batch_size", 1)
    assert (figures["image_size"], figures["num_parameters"]) == (32, 4_652_008 - 997 * 1281)
    expected = figures["num_parameters"] + 2 * 1281
    assert run("run", "--num_classes", 5, "--runs", 1, "--batch_size", 1)["num_parameters"] == expected
    assert run("run", "--plan", "--memory", "4GiB")["plan"]["parameters"]["value"] == figures["num_parameters"]
    compared = run("--compare", "lite0,run", "--image_size", 32, "--runs", 1)["networks"]
    assert compared["run"]["macs"] == figures["macs"] == compared["lite0"]["macs"] - 997 * 1280


def test_networks_are_compared_with_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    figures = run("--compare", f"{TINY},resnet50@w=0.125,d=0.1", "--image_size", 32, "--runs", 2)
    first, second = figures["networks"]
    assert figures["times_the_first"][first] == 1
    medians = [figures["networks"][name]["latency"]["median_ms"] for name in (first, second)]
    assert figures["times_the_first"][second] == pytest.approx(medians[1] / medians[0])
    assert figures["networks"][second]["macs"] == count_macs(get_backbone(second), 32)
    assert [row["printed_ratio"] for row in figures["table4"]] == [5.7, 6.1]
    shown = capsys.readouterr().out
    assert "ResNet-152 0.554 s, b1 0.098 s: 5.7 times b1" in shown and "GPipe 19 s, b7 3.1 s: 6.1 times b7" in shown


def test_a_plan_says_where_each_figure_is_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = training_memory(build_classifier(TINY, 1000), 32)
    (folder / "speed.json").write_text(json.dumps(BENCHMARK))
    options = ("--image_size", 32, "--memory", f"{memory.total(25)}B", "--num_images", 9000, "--epochs", 10)
    plan = run(TINY, "--plan", *options, "--benchmarks", "speed.json")["plan"]
    assert plan["largest batch"] == {"value": 25, "from": "predicted"}
    assert plan["memory"] == {"value": memory.total(25), "from": "given"}
    assert plan["memory, each image"] == {"value": memory.per_image, "from": "predicted"}
    assert plan["parameters"]["from"] == plan["multiply-adds"]["from"] == "counted"
    assert plan["speed"] == {"value": 50.0, "from": "given: python -m benchmarks train on 2 cores of Abacus, 32-true"}
    half = run(TINY, "--plan", *options, "--benchmarks", "speed.json", "--precision", "bf16-mixed")["plan"]
    assert half["speed"]["value"] == 1.0 and half["speed"]["from"].endswith("Abacus, bf16-mixed")
    assert plan["training"]["value"] == 9000 * 10 / 50 / 3600 and "without validation" in plan["training"]["from"]
    # 64 images in three steps, as even as they go.
    assert plan["batch of 64"]["value"] == 22 and "22 images, 3 times a step, " in capsys.readouterr().out


def test_a_plan_takes_the_precision_that_a_run_would_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (folder / "speed.json").write_text(json.dumps(BENCHMARK | {"image_size": 96}))
    options = (TINY, "--plan", "--memory", "4GiB", "--num_images", 9, "--epochs", 1)
    network = build_classifier(TINY, 1000)
    for native, size, precision in ((True, 96, "bf16-mixed"), (True, 48, "32-true"), (False, 96, "32-true")):
        monkeypatch.setattr(bfloat16, "computes_bf16", lambda device, native=native: native)
        given = ("--benchmarks", "speed.json") if size == 96 else ("--images_per_second", 1)
        found = run(*options, "--image_size", size, *given)
        assert found["precision"] == precision
        assert (
            found["plan"]["memory, each image"]["value"]
            == training_memory(network, size, precision=precision).per_image
        )
        assert found["plan"]["speed"]["value"] == (50 if (native, size) == (False, 96) else 1)
        [speed] = read_benchmarks([Path("speed.json")])
        assert speed.images_per_second == (1 if native else 50)


def test_a_plan_measures_the_speed_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = run(TINY, "--plan", "--image_size", 32, "--batch_size", 2, "--num_images", 10, "--epochs", 1)["plan"]
    assert plan["speed"]["value"] > 0 and plan["speed"]["from"].startswith("measured on 1 thread of ")
    assert plan["memory"]["from"] in ("half of this machine's", "90% of this GPU's")
    monkeypatch.setattr("transfer.costs.memory.usable_memory", lambda: (None, None))
    assert profile.main([TINY, "--plan"]) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "{",
        json.dumps({**BENCHMARK, "hardware": {"gpus": 3}}),
        json.dumps({**BENCHMARK, "image_size": "32"}),
        json.dumps({**BENCHMARK, "float32 channels_last": {"images_per_second": 0}}),
        json.dumps({**BENCHMARK, "float32 channels_last": None}),
    ],
)
def test_speeds_that_are_none_are_refused(content: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "speed.json").write_text(content)
    words = ["--plan", "--memory", "8GB", "--num_images", "3", "--epochs", "3", "--benchmarks", "speed.json"]
    assert profile.main([TINY, "--image_size", "32", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "speed.json" in error and len(error.splitlines()) == 1
    (folder / "speeds.json").write_text(content)
    with pytest.raises(UserError, match=r"speeds\.json"):
        find_speed(folder, [], TINY, 32, 2, on_cpu=True)


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--image_size", "64", "--batch_size", "2147483647", "--runs", "1", "--device", "cpu"]
    assert profile.main([TINY, *words]) == 2
    assert "too little memory for 2147483647 images of 64 px" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["b9"], "error: unknown backbone 'b9'"),
        (["b0", "--plan", "--memory", "16"], "error: --memory '16': give a number and a unit"),
        (
            ["b0", "--plan", "--memory", "50MB", "--precision", "32-true"],
            "two images take .* MiB (predicted, 32-true), and there are 47.68 MiB",
        ),
        (["lite0", "--plan", "--memory", "8GB", "--epochs", "3"], "--num_images and --epochs belong together"),
        (["--compare", "b0,b9"], "error: unknown backbone 'b9'"),
        (["b0", "--device", "cuda"], "error: --device cuda: PyTorch finds no GPU here"),
        (
            [TINY, "--plan", "--memory", "8GB", "--num_images", "3", "--epochs", "3", "--benchmarks", "speed.json"],
            f"error: --benchmarks: no {TINY} at 224 px (there: {TINY} at 32 px)",
        ),
    ],
)
def test_a_mistake_is_explained(
    argv: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (folder / "speed.json").write_text(json.dumps(BENCHMARK))
    assert profile.main(argv) == 2
    start, _, end = message.partition(" .* ")
    error = capsys.readouterr().err
    assert start in error and end in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give one network, or --compare with several"),
        (["b0", "--compare", "b0,b1"], "give one network, or --compare with several"),
        (["b0", "--memory", "1GB"], "--memory belongs to --plan"),
        (["--compare", "b0,b1", "--plan"], "--plan is of one network"),
        (["b0", "--plan", "--runs", "3"], "--runs: a plan has none"),
        (["--compare", "b0,b1", "--measure_memory"], "--measure_memory is of one network"),
        (
            ["b0", "--plan", "--images_per_second", "nan"],
            "argument --images_per_second: 'nan' (allowed: numbers above 0)",
        ),
        (["b0", "--batch_size", "0"], "argument --data.batch_size/--batch_size: '0' (allowed: whole numbers from 1"),
    ],
)
def test_the_command_line_refuses(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        profile.main(argv)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_the_script_does_not_hide_the_standard_library_s_profile() -> None:
    words = [sys.executable, str(ROOT / "scripts" / "profile.py"), "lite0", "--image_size", "32", "--runs", "1"]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "multiply-adds" in result.stdout


def test_the_prediction_is_compared_with_what_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = build_classifier(TINY, 1000)
    predicted = {True: training_memory(network, 32).total(4), False: inference_memory(network, 32, 4)}

    def measure(build: Any, *size: int, training: bool, malloc: Any = None, **more: Any) -> int:
        assert size == (32, 4) and build().num_classes == 1000
        return round(predicted[training] * (2 if malloc is keep_freed_memory else 1.25))

    monkeypatch.setattr("transfer.costs.peak_memory.measure_peak", measure)
    argv = ["memory_prediction", "--networks", TINY, "--cases", "32x4", "--device", "cpu", "--json", "figures.json"]
    assert benchmark.main(argv) == 0
    figures = json.loads(Path("figures.json").read_text(encoding="utf-8"))
    (case,) = figures["cases"]
    assert case["training"]["predicted_bytes"] == predicted[True] and case["training"]["error_percent"] == -20
    assert case["training"]["kept_bytes"] == 2 * predicted[True]
    assert case["inference"]["error_percent"] == -20 == -figures["largest_error_percent"]
    for text in ("32", "32x1", "x4", "0x4", "axb"):
        assert benchmark.main(["memory_prediction", "--cases", text]) == 2
        assert f"error: --cases {text!r}: expected pixels and images" in capsys.readouterr().err


def test_the_committed_predictions_are_close_and_still_made() -> None:
    figures = json.loads((ROOT / "benchmarks" / "memory_prediction_cpu.json").read_text())
    cases = {(case["network"], case["image_size"], case["batch_size"]): case for case in figures["cases"]}
    sizes = [benchmark_memory_prediction.parse_case(case) for case in benchmark_memory_prediction.CASES]
    assert list(cases) == [(name, *size) for name in benchmark_memory_prediction.NETWORKS for size in sizes]
    for case in cases.values():
        for kind, most in (("training", 0.05), ("inference", 0.105)):
            assert abs(case[kind]["predicted_bytes"] / case[kind]["measured_bytes"] - 1) < most
        assert case["training"]["measured_bytes"] < case["training"]["kept_bytes"]
    for name in ("lite0", "resnet50"):
        memory = training_memory(build_classifier(name, 1000), 160)
        assert cases[name, 160, 8]["training"]["predicted_bytes"] == memory.total(8)
