"""A run predicts and is evaluated by the engine that is asked for, and says which it was."""

from __future__ import annotations

import csv
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.runs import call, save_classes, untrained_run
from transfer.commands import evaluate, predict, probe
from transfer.commands.predict_run import read_examples
from transfer.config.probe_schema import ProbeConfig
from transfer.errors import UserError
from transfer.inference.classifier import EngineClassifier
from transfer.inference.names import CHOICES
from transfer.runs.predictor import Run, load_run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_classes(tmp_path / "photos", {"dark": 3, "light": 3})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return untrained_run(tmp_path / "run", ["dark", "light"])


def test_a_run_with_an_engine_has_its_network_too(run_dir: Path) -> None:
    plain = load_run(run_dir)
    fast = plain.with_engine("torch-bf16")
    images = torch.randint(256, (5, 32, 32, 3), dtype=torch.uint8)
    found, expected = fast.probabilities(images), plain.probabilities(images)
    assert 0 < float((found - expected).abs().max()) < 0.2
    assert isinstance(fast.classifier, EngineClassifier) and fast.classifier.record is not None
    assert (fast.classifier.record.engine, fast.classifier.record.images_compared) == ("torch-bf16", 5)
    assert fast.classifier.backbone is plain.classifier.backbone
    with pytest.raises(UserError, match="unknown engine 'openvin'; did you mean 'openvino'"):
        plain.with_engine("openvin")


def test_for_few_images_auto_is_the_network_itself(run_dir: Path) -> None:
    plain = load_run(run_dir)
    images = torch.randint(256, (5, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(plain.with_engine("auto", 5).probabilities(images), plain.probabilities(images))


def test_predict_says_what_computed(
    run_dir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def predicted(*words: str) -> np.ndarray:
        out = tmp_path / "rows.csv"
        assert call(predict.main, run_dir, photos, "--num_workers", "0", "--out", out, *words) == 0
        with open(out, encoding="utf-8", newline="") as file:
            return np.array([float(row["probability"]) for row in csv.DictReader(file)])

    expected = predicted()
    assert "engine" not in capsys.readouterr().err
    assert predicted("--engine", "openvino", "--batch_size", "4") == pytest.approx(expected, abs=1e-4)
    assert "engine: openvino (float32): on 6 images 100.0% of the answers" in capsys.readouterr().err


def test_engines_are_compared_on_readable_files_from_all_over(run_dir: Path, photos: Path) -> None:
    (photos / "dark" / "empty.png").touch()
    paths = [*sorted((photos / "dark").iterdir()), *sorted((photos / "light").iterdir())] * 20
    images = read_examples(load_run(run_dir), paths, num_workers=0, most=64)
    readable = [path for path in paths[::2][:64] if path.name != "empty.png"]
    assert images.shape == (len(readable), 3, 32, 32) and len(readable) < 64


def test_a_missing_package_is_told_before_anything_is_read(
    run_dir: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = tmp_path / "probe"
    assert call(evaluate.main, run_dir, "--engine", "onnxruntime") == 2
    words = ("--dataset", "folder", "--data_root", photos, "--out_dir", out, "--engine", "onnxruntime")
    assert call(probe.main, *words) == 2
    expected = "error: --engine onnxruntime: onnxruntime is not installed; run: pip install 'efficientnet-transfer["
    assert capsys.readouterr().err.count(expected) == 2
    assert not (run_dir / "test_reads.json").exists() and not out.exists()


def test_an_evaluation_records_its_engine(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    found = {}
    for name in ("torch", "onnxruntime"):
        words = (
            "--data_root",
            photos,
            "--num_workers",
            "0",
            "--batch_size",
            "2",
            "--out_dir",
            tmp_path / name,
            "--engine",
            name,
        )
        assert call(evaluate.main, run_dir, *words) == 0
        found[name] = json.loads((tmp_path / name / "evaluation.json").read_text())
    assert found["torch"]["engine"]["engine"] == "torch" and found["torch"]["engine"]["images_compared"] == 0
    record = found["onnxruntime"]["engine"]
    assert (record["engine"], record["images_compared"], record["agreement"]) == ("onnxruntime", 6, 1)
    assert found["onnxruntime"]["metrics"] == pytest.approx(found["torch"]["metrics"], rel=1e-4)


@pytest.mark.parametrize("reader", [ProbeConfig, Run.with_engine])
def test_a_reader_lists_every_engine(reader: Any) -> None:
    assert {*CHOICES} <= {*re.findall(r"[a-z][a-z0-9-]*", inspect.getsource(reader))}
