"""The readings of the test split and the predictions on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from transfer.errors import UserError
from transfer.runs.test_record import count_test_read, num_test_reads, read_predictions, save_predictions


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
    save_predictions(tmp_path, np.array([[0, 1], [2, 2], [1, 0]]))
    labels, predictions = read_predictions(tmp_path)
    assert (labels.tolist(), predictions.tolist()) == ([0, 2, 1], [1, 2, 0])
    assert [path.name for path in tmp_path.iterdir()] == ["test_predictions.npz"]


def test_predictions_that_are_missing_or_damaged_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no test_predictions.npz: the run read none or only part of a test split"):
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
