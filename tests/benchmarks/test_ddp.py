"""python -m benchmarks ddp: the prediction from measurements by hand, and a real run of two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmark
from benchmarks.ddp import Case, Round, cluster_of, compare
from transfer.costs.data_parallel import Gradient, Timeline
from transfer.weights.build import build_classifier

TINY = "lite0@w=0.25,d=0.25"
SIZE = 2 * 2**20


def measured(slower: float, together: float) -> list[list[Round]]:
    """Two processes, both with all-reduces of 1 second, and 11 for each of two buckets, ready after 4 and 10."""
    timeline = Timeline(2.0, 20.0, 1.0, (Gradient(SIZE // 2, 4.0), Gradient(SIZE // 2, 10.0)))
    first = Round([timeline], [slower], [1.0, 11.0, 11.0], waited=12.0, computed=6.0, together=together)
    return [[first], [first]]


def test_a_prediction_by_hand() -> None:
    case = Case(TINY, processes=2, threads=1, image_size=32, batch_size=2, steps=1, rounds=1)
    row = compare(case, measured(slower=3.0, together=40.0), cores=2)
    # 1 second per all-reduce of nothing: 2 messages. Of 12 seconds on 2 cores, both processes compute in 12 of 24.
    assert row["medians"]["latency"] == 0.5 and row["medians"]["bandwidth"] == pytest.approx(SIZE / 20)
    assert row["medians"]["share_of_cores"] == pytest.approx(0.5)
    buffers = sum(buffer.nbytes for buffer in build_classifier(TINY, 10).buffers())
    broadcast = 0.5 + buffers / (SIZE / 20)
    assert row["buckets"] == [SIZE // 2, SIZE // 2]
    # 4 alone; 11 beside the first, which compute 5.5; 0.5 alone; 11 beside the second; the last 4.5.
    expected = 2 + 1 + 3 + broadcast + 4 + 11 + 0.5 + 11 + 4.5
    assert row["medians"]["step_alone"] == 26
    assert row["medians"]["step"] == pytest.approx(expected)
    assert row["medians"]["efficiency"] == pytest.approx(26 / expected)
    assert row["ratio"] == pytest.approx(expected / 40, abs=1e-3) == row["ratio_range"][0]


def test_cores_to_spare_communicate_for_nothing() -> None:
    case = Case(TINY, processes=2, threads=1, image_size=32, batch_size=2, steps=1, rounds=1)
    assert compare(case, measured(slower=0.0, together=30.0), cores=4)["medians"]["share_of_cores"] == 0


def test_latency_and_bandwidth_give_back_what_was_measured() -> None:
    sizes = [2**20, 25 * 2**20, 3 * 2**20]
    cluster = cluster_of(4, sizes, [[0.1, 0.2, 1.1, 0.3], [0.1, 0.2, 1.1, 0.3]])
    assert sum(cluster.all_reduce_seconds(size) for size in sizes) == pytest.approx(1.6)
    assert cluster.all_reduce_seconds(0) == pytest.approx(0.1)
    blurred = cluster_of(2, [2**10], [[0.3, 0.2]])
    assert blurred.within.bandwidth > 0 and blurred.all_reduce_seconds(2**10) == pytest.approx(0.2)


def test_two_real_processes(tmp_path: Path) -> None:
    small = ("--networks", TINY, "--processes", "2", "--image_size", "32", "--batch_size", "2")
    argv = ["ddp", *small, "--steps", "1", "--rounds", "1", "--json", str(tmp_path / "ddp.json")]
    assert benchmark.main(argv) == 0
    (case,) = json.loads((tmp_path / "ddp.json").read_text())["cases"]
    network = build_classifier(TINY, 10)
    assert case["gradient_bytes"] == sum(4 * p.numel() for p in network.parameters())
    assert case["buffer_bytes"] == sum(buffer.nbytes for buffer in network.buffers())
    assert case["ratio"] == pytest.approx(case["medians"]["step"] / case["measured_seconds"], abs=1e-3)
    assert case["medians"]["bandwidth"] > 0 and 0 < case["medians"]["efficiency"] <= 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--processes", "1"], "processes"), (["--batch_size", "1"], "batch_size"), (["--rounds", "0"], "rounds")],
)
def test_numbers_that_are_too_small_are_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["ddp", *argv]) == 2
    assert message in capsys.readouterr().err
