"""Cells of a linear probe: planned once for all seeds, run by the probe command, reported as other cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.tables import make_cell, run_cell
from transfer.config.command_line import parse_probe_config
from transfer.config.data_schema import DataConfig
from transfer.errors import BadValue
from transfer.experiments import child_run
from transfer.experiments.table.cells import Table, table_content
from transfer.experiments.table.config import TableConfig
from transfer.experiments.table.entries import TABLE, read_entries
from transfer.experiments.table.planning import DatasetFacts, check_configurations, plan_table
from transfer.experiments.table.probe_cells import get_cell_protocol, probe_configuration
from transfer.experiments.table.results import table_results
from transfer.experiments.table.verdicts import published_of
from transfer.files import write_json
from transfer.paper import SIMCLR_RESNET50

SET = {"image_size": 64, "data.batch_size": 32, "trainer.accelerator": "cpu", "trainer.max_steps": 9, "optim.lr": 0.1}


@pytest.fixture
def probe_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Put `stub_probe.py` in probe's place and return a function that lists the probes started so far."""
    calls = tmp_path / "calls"
    calls.touch()
    stub = Path(__file__).parents[1] / "support" / "stub_probe.py"
    monkeypatch.setattr(child_run, "PROBE", (str(stub),))
    monkeypatch.setenv("STUB_CALLS", str(calls))
    return lambda: calls.read_text().splitlines()


def test_a_probe_is_planned_once_for_all_seeds() -> None:
    wanted = TableConfig(
        datasets=["digits"],
        backbones=["lite0", "b0"],
        protocols=["kornblith", "linear-probe"],
        seeds=[3, 4],
        max_batch_per_device=64,
    )
    table = plan_table(wanted, lambda dataset: DatasetFacts(1437, 64))
    assert [cell.id for cell in table.cells if cell.backbone == "lite0"] == [
        *("digits_lite0_kornblith_3", "digits_lite0_kornblith_4"),
        "digits_lite0_linear-probe_3",
    ]
    check_configurations(table)


def test_an_unknown_protocol_of_a_cell_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        BadValue, match=r"unknown protocol 'linear-prob'; did you mean 'linear-probe'\? \(allowed: bit-"
    ):
        get_cell_protocol("linear-prob")


def test_a_probe_takes_the_fields_that_it_has() -> None:
    cell = make_cell(protocol="linear-probe")
    table = Table(cells=(cell,), pretrained="paper", set=SET)
    fields = probe_configuration(cell, table, devices=2)
    assert fields == {
        **{"pretrained": "paper", "image_size": 64, "data.batch_size": 32, "trainer.accelerator": "cpu"},
        "features": "last",
        "logit_adjustment": False,
        **{"dataset": "digits", "backbone": "lite0", "seed": 0, "data_root": None, "trainer.devices": 2},
    }
    assert probe_configuration(cell, Table(cells=(cell,)), 1)["data.batch_size"] == DataConfig.batch_size


def test_a_field_that_a_probe_refuses_is_refused_with_the_plan() -> None:
    cell = make_cell(protocol="linear-probe")
    with pytest.raises(BadValue, match="a probe supports one label per image only"):
        check_configurations(Table(cells=(cell,), set={"data.multilabel": True, "loss.name": "bce"}))


def test_a_cell_is_one_probe_whose_result_is_reported(tmp_path: Path, probe_stub: Any) -> None:
    cell = make_cell(protocol="linear-probe")
    table = Table(cells=(cell,), set=SET, not_comparable={"image_size": 64, "optim.lr": 0.1})
    write_json(tmp_path / TABLE, table_content(table))
    assert run_cell(tmp_path, table, cell, devices=2) == "done"
    assert run_cell(tmp_path, table, cell) == "done" and probe_stub() == [f"probe {cell.id}/final"]
    config, _ = parse_probe_config(["--config", str(tmp_path / "cells" / cell.id / "final.yaml")])
    assert (config.image_size, config.backbone, config.trainer.devices) == (64, "lite0", 2)
    result = json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())
    assert result["metrics"] == {"test": {"top1": 0.75}, "val": {"top1": 0.8}} and result["test_reads"] == 1
    assert (result["chosen"], result["num_trials"], result["overrides"]) == ({"penalty": 0.1}, 0, {"image_size": 64})
    assert result["train_seconds"] == 2.5 and result["gpu_hours"] == round(2.5 * 2 / 3600, 4)
    (found,) = table_results(read_entries(tmp_path))
    assert found.quoted is not None and found.quoted.value == pytest.approx(75.0)
    assert found.caveats == ["instead of the protocol's: image_size=64"]


def test_a_probe_that_failed_begins_again(tmp_path: Path, probe_stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = make_cell(protocol="linear-probe")
    monkeypatch.setenv("STUB", "fail")
    assert run_cell(tmp_path, Table(cells=(cell,)), cell) == "failed"
    result = json.loads((tmp_path / "cells" / cell.id / "result.json").read_text())
    assert result["error"] == f"cells/{cell.id}/final: exit status 2\nerror: no weights"
    monkeypatch.setenv("STUB", "")
    assert run_cell(tmp_path, Table(cells=(cell,)), cell, retry_failed=True) == "done" and len(probe_stub()) == 2
    assert yaml.safe_load((tmp_path / "cells" / cell.id / "final.yaml").read_text())["dataset"] == "digits"


def test_the_linear_column_is_compared_with_simclrs_restatement() -> None:
    (found,) = table_results(
        [entry_of("cifar10", "resnet50", "linear-probe")],
    )
    published = published_of(found)
    assert published is not None and published.accuracy == SIMCLR_RESNET50["linear"].accuracy["cifar10"] == 93.6


def entry_of(dataset: str, backbone: str, protocol: str) -> Any:
    from transfer.experiments.table.entries import Entry

    return Entry("x", dataset, backbone, protocol, 0, "not run", None, {})
