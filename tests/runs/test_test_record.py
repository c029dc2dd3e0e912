"""The readings of the test split and the predictions on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from transfer.errors import UserError
from transfer.runs.test_record import (
    PREDICTIONS,
    count_test_read,
    make_predictions,
    num_test_reads,
    read_predictions,
)


def test_readings_of_the_test_split_are_counted(tmp_path: Path) -> None:
    assert num_test_reads(tmp_path) == 0 and list(tmp_path.iterdir()) == []
    assert [count_test_read(tmp_path) for _ in range(3)] == [1, 2, 3]
    assert json.loads((tmp_path / "test_reads.json").read_text()) == {"reads": 3} and num_test_reads(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["test_reads.json"]
    for text in ("", "[]", '{"reads": null}', "{}", '{"reads": -1}', '{"reads": true}'):
        (tmp_path / "test_reads.json").write_text(text)
        with pytest.raises(UserError, match=r"test_reads\.json"):
            count_test_read(tmp_path)


PROBABILITIES = np.array([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6]], np.float32)
PATHS = ("a/1.png", "a/\udcff.png", "t.parquet train row 2")


def test_predictions_round_trip_in_plain_arrays(tmp_path: Path) -> None:
    make_predictions(np.array([0, 0, 1]), PROBABILITIES, PATHS, ["cat", "dog"]).save(tmp_path / PREDICTIONS)
    found = read_predictions(tmp_path)
    assert (found.labels.tolist(), found.predictions.tolist(), found.multilabel) == ([0, 0, 1], [1, 0, 1], False)
    np.testing.assert_array_equal(found.probabilities, PROBABILITIES)
    assert found.paths == ("a/1.png", r"a/\udcff.png", PATHS[2]) and found.class_names == ("cat", "dog")
    assert [path.name for path in tmp_path.iterdir()] == ["test_predictions.npz"]


def test_several_labels_are_given_from_the_threshold_on(tmp_path: Path) -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    make_predictions(labels, PROBABILITIES, PATHS, ["sea", "sky"], threshold=0.15).save(tmp_path / PREDICTIONS)
    found = read_predictions(tmp_path)
    assert found.multilabel and found.labels.dtype == bool and found.labels.tolist() == labels.astype(bool).tolist()
    assert found.predictions.tolist() == [[True, True], [True, False], [True, True]]


def test_predictions_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / PREDICTIONS, label=np.array([0, 2]), prediction=np.array([1, 2]))
    found = read_predictions(tmp_path)
    assert (found.labels.tolist(), found.predictions.tolist()) == ([0, 2], [1, 2])
    assert found.probabilities is None and found.paths == () and found.class_names == ()


def test_predictions_that_are_missing_or_damaged_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no test_predictions.npz: the run read none or only part of a test split"):
        read_predictions(tmp_path)
    path = tmp_path / PREDICTIONS
    for content in (b"", b"PK\3\4 half a file", b"text", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"test_predictions.npz: damaged"):
            read_predictions(tmp_path)
    np.save(tmp_path / "one.npy", np.zeros(3))  # a single array, not an archive
    (tmp_path / "one.npy").rename(path)
    with pytest.raises(UserError, match=r"test_predictions.npz: damaged"):
        read_predictions(tmp_path)
    objects = np.array([print, print], dtype=object)  # would be unpickled code
    three = np.arange(3)
    for arrays in (
        {"label": objects, "prediction": objects},
        {"label": three},
        {"label": three, "prediction": np.arange(4)},
        {"label": three[:0], "prediction": three[:0]},
        {"label": three.astype(float), "prediction": three},
        {"label": -three, "prediction": three},
        {"label": three, "prediction": three, "path": np.array(["a", "b"])},
        {"label": three, "prediction": three, "probability": np.zeros((2, 3), np.float32)},
    ):
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=r"test_predictions.npz: damaged"):
            read_predictions(tmp_path)
