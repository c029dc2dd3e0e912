"""The table command: planned, run, retried and reported, with a stand-in for finetune."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.tables import make_cell
from transfer.__main__ import main as entry_point
from transfer.commands import table as script
from transfer.config.protocols import get_protocol, protocol_settings
from transfer.costs.speed import SPEEDS, find_speed, read_benchmarks
from transfer.errors import UserError
from transfer.experiments import launchers
from transfer.experiments.table.cell_run import run_configuration
from transfer.experiments.table.cells import Table, read_table
from transfer.experiments.table.planning import count_parameters

ROOT = Path(__file__).parents[2]
GRID = ("--grid", "optim.lr=0.1,0.01", "--grid", "optim.weight_decay=0")


@pytest.fixture
def speeds(tmp_path: Path) -> Path:
    """A file of python -m benchmarks train for lite0 at 64 px on a CPU."""
    figures = {
        **{"backbone": "lite0", "image_size": 64, "hardware": {"cpu": "a CPU", "cores": 2, "gpus": []}},
        **{case: {"images_per_second": 100.0} for case in ("bf16 channels_last", "float32 channels_last")},
    }
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(figures))
    return path


def plan(out: Path, *words: str | Path) -> int:
    return script.main(["plan", str(out), "--datasets", "digits", "--backbones", "lite0", *map(str, words)])


def test_plan_writes_cells_and_says_what_they_cost(
    tmp_path: Path, speeds: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "out"
    options = ("--benchmarks", speeds, *GRID, "--max_batch_per_device", "32")
    assert plan(out, *options, "--seeds", "0", "1") == 0
    table = read_table(out)
    assert [cell.id for cell in table.cells] == ["digits_lite0_kornblith_0", "digits_lite0_kornblith_1"]
    cell = table.cells[0]
    assert (cell.image_size, cell.num_images, cell.num_parameters) == (64, 1437, 3_371_008)
    steps = 3 * math.ceil(20_000 * 1437 / 2040)
    text = capsys.readouterr().out
    assert f"{steps:,}" in text and "reduced grid: optim.lr 0.1, 0.01; optim.weight_decay 0.0" in text
    assert f"{2 * steps * 256 / 100 / 3600:,.2f} device-hours" in text
    assert "on 2 cores of a CPU" in text
    assert plan(out, *options, "--seeds", "2") == 0
    assert [cell.seed for cell in read_table(out).cells] == [0, 1, 2]
    assert plan(out, "--benchmarks", speeds) == 2
    assert "was planned otherwise; give a new folder, or the same options:" in capsys.readouterr().err


@pytest.mark.parametrize(("field", "images"), [("data.per_class=4", 40), ("data.fraction=0.1", 144)])
def test_steps_are_those_of_the_images_that_are_drawn(tmp_path: Path, speeds: Path, field: str, images: int) -> None:
    out = tmp_path / "out"
    assert plan(out, "--set", field, "--protocols", "vtab-1k", "linear-probe", "--benchmarks", speeds) == 0
    table = read_table(out)
    assert [cell.num_images for cell in table.cells] == [pytest.approx(images, abs=5)] * 2
    final = run_configuration(table.cells[0], table, {}, 1, final=True)
    assert final["optim.warmup_epochs"] * math.ceil(images / 64) == pytest.approx(80, rel=1e-3)


def test_growing_images_take_less_time(tmp_path: Path, speeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path / "out", "--benchmarks", speeds, *GRID, "--set", "progressive=32") == 0
    images = 3 * math.ceil(20_000 * 1437 / 2040) * 256 * (32**2 + 43**2 + 53**2 + 64**2) / (4 * 64**2)
    assert f"{images / 100 / 3600:,.2f} device-hours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--protocols", "kornblit"), "unknown protocol 'kornblit'; did you mean 'kornblith'?"),
        (("--pretrained", "nowhere"), "nowhere"),
        (("--budget_steps", "10"), "--budget_steps 10: too few for 56 trials"),
        (("--benchmarks", "nowhere.json"), "nowhere.json: no such file"),
        (("--set", "optim.lr=0.1"), "--set optim.lr: the trials of kornblith choose it; give --grid optim.lr=..."),
        (
            ("--grid", "optim.lr=0.1,0.01"),
            "--grid optim.lr: kornblith chooses optim.lr and optim.weight_decay together: give optim.weight_decay too",
        ),
        (("--set", "trainer.accumulate_grad_batches=3"), "3 with global_batch_size=256, which is 1 x"),
        (("--protocols", "sam-paper-rho0.05", "--max_batch_per_device", "64"), "both passes need the whole batch"),
        (("--set", "early_stopping=3"), "there is no validation to watch"),
    ],
)
def test_plan_refuses_what_cannot_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert plan(tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("backbone", "count"), [("b0", 4_007_548), ("b7", 63_786_960), ("b0@phi=0", 4_007_548)])
def test_parameters_are_counted_without_the_classifier(backbone: str, count: int) -> None:
    assert count_parameters(backbone) == count


def test_run_needs_a_plan_and_sensible_numbers(
    tmp_path: Path, speeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["run", str(tmp_path / "out")]) == 2
    assert "is no table" in capsys.readouterr().err
    for words, message in (
        (["--workers", "0"], "--workers 0 (allowed: at least 1)"),
        (["--slurm", "partition"], "--slurm partition: expected KEY=VALUE"),
        (["--slurm", "partition=gpu"], "--slurm needs --launcher slurm"),
    ):
        assert script.main(["run", str(tmp_path / "out"), *words]) == 2
        assert message in capsys.readouterr().err


def test_run_goes_on_after_a_failed_cell_and_says_how_to_retry(
    tmp_path: Path, speeds: Path, table_stub: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    cpu = ("--set", "trainer.accelerator=cpu", *GRID, "--benchmarks", speeds)
    assert plan(out, "--seeds", "0", "1", "--protocols", "kornblith", "sam-paper", *cpu) == 0
    monkeypatch.setenv("STUB", "fail 0.1")
    monkeypatch.setattr(launchers, "run_pool", run_here)
    assert script.main(["run", str(out), "--workers", "2"]) == 1
    text = capfd.readouterr().out
    assert "2 of 4 cells are done, 2 failed" in text
    assert "digits_lite0_kornblith_1: error: the learning rate is wrong" in text
    assert "--retry_failed" in text
    monkeypatch.setenv("STUB", "")
    assert script.main(["run", str(out)]) == 1 and len(table_stub()) == 4
    assert script.main(["run", str(out), "--retry_failed"]) == 0
    assert "4 of 4 cells are done" in capfd.readouterr().out
    assert script.main(["report", str(out)]) == 0
    assert "kornblith" in capfd.readouterr().out and (out / "report.csv").exists()


def run_here(tasks: Any, slots: Any, children: Any) -> Any:
    """`run_pool` in this process, where the stand-in is known."""
    for task in tasks:
        assert task.command[:2] == ["-m", "transfer"]
        yield task.name, entry_point(task.command[2:])


def test_a_measured_speed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = find_speed(tmp_path, [], "lite0", 32, 4, on_cpu=True)
    assert speed is not None and speed.images_per_second > 0 and "cores of" in speed.measured_on
    monkeypatch.setattr("transfer.costs.speed.measure", lambda *_: pytest.fail("measured again"))
    assert find_speed(tmp_path, [], "lite0", 32, 4, on_cpu=True) == speed
    assert len(json.loads((tmp_path / SPEEDS).read_text())["speeds"]) == 1
    assert find_speed(tmp_path, [], "lite0", 64, 1, on_cpu=True) is None


def test_another_file_is_no_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=r"other.json: not a file of `python -m benchmarks train --json`"):
        read_benchmarks([path])


def test_a_protocols_settings_are_those_of_its_runs() -> None:
    protocol = get_protocol("kornblith")
    cell, trial = make_cell(), protocol.grid[9]
    settings = protocol_settings(protocol, trial, dataset="digits", backbone="lite0", num_images=1437)
    ours = run_configuration(cell, Table(cells=(cell,), pretrained="paper"), trial, 1, final=False)
    assert settings.items() <= ours.items()
    assert ours.keys() - settings.keys() == {
        *("pretrained", "dataset", "backbone", "seed", "data_root", "data.batch_size"),
        *("trainer.devices", "trainer.limit_test_batches"),
    }
    random = run_configuration(make_cell(protocol="scratch"), Table(cells=(cell,), pretrained="paper"), trial, 1, True)
    assert random["pretrained"] is False
