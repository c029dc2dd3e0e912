"""What is kept of a finished table, and that its report is the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ledger import benchmark_ledger
from tests.support.results import done
from tests.support.tables import make_cell
from transfer.errors import BadValue
from transfer.experiments.table.cells import Table, cell_dir, table_content
from transfer.experiments.table.report import write_report
from transfer.files import write_json
from transfer.runs.test_record import read_predictions

LEDGERS = sorted(Path(__file__).parents[2].glob("benchmarks/ledger/*/"))
LABELS = np.repeat([0, 1], 20)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder, photos = tmp_path / "table", tmp_path / "photos"
    plan = Table(cells=tuple(make_cell(seed) for seed in range(3)), data_root=str(photos))
    folder.mkdir()
    write_json(folder / "table.json", table_content(plan))
    for number, cell in enumerate(plan.cells):
        found = LABELS.copy()
        found[: 2 * number + 2] = 1
        accuracy = 100 * float(np.mean(found == LABELS))
        final = cell_dir(folder, cell) / "final"
        final.mkdir(parents=True)
        (final / "best.ckpt").write_bytes(bytes(1000))
        write_json(final.parent / "result.json", done(accuracy, accuracy))
        paths = np.array([f"{photos}/a/{index}.jpg" for index in range(40)])
        probability = np.zeros((40, 2), np.float32)
        np.savez(
            final / "test_predictions.npz",
            label=LABELS,
            prediction=found,
            probability=probability,
            path=paths,
            class_name=np.array(["a", "b"]),
        )
    return folder


def test_the_report_of_a_ledger_is_that_of_its_table(table: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    found = benchmark_ledger(table, ledger)
    assert list(found["accuracies"].values()) == pytest.approx([95.0, 90.0, 85.0])
    kept = read_predictions(ledger / "cells" / make_cell(1).id / "final")
    assert kept.probabilities is None and kept.paths[:2] == ("a/0.jpg", "a/1.jpg") and kept.class_names == ("a", "b")
    assert np.sum(kept.predictions != kept.labels) == 4
    assert not list(ledger.rglob("*.ckpt")) and found["bytes"] < 20_000
    assert str(tmp_path) not in (ledger / "table.json").read_text()
    for folder in (table, ledger):
        write_report(folder)
    for name in ("report_seeds.csv", "report.csv"):
        assert (ledger / name).read_text() == (table / name).read_text()


def test_a_table_that_is_not_done_is_refused(table: Path, tmp_path: Path) -> None:
    result = cell_dir(table, make_cell(2)) / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "status": "failed", "error": "x"}))
    with pytest.raises(BadValue, match=f"not done: {make_cell(2).id} .*table run"):
        benchmark_ledger(table, tmp_path / "ledger")
    assert not (tmp_path / "ledger").exists()


@pytest.mark.parametrize("ledger", LEDGERS, ids=lambda folder: folder.name)
def test_a_ledger_of_the_repository_makes_its_own_report(ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / ledger.name
    shutil.copytree(ledger, copy, ignore=shutil.ignore_patterns("report*", "figure*"))
    write_report(copy)
    for name in ("report.md", "report.csv", "report_seeds.csv", "report_differences.csv"):
        assert (copy / name).read_text() == (ledger / name).read_text(), name
