"""A calibration answers for any coverage after it was saved, and a file that is none is refused in one line."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file
from sklearn.metrics import roc_auc_score

from transfer.calibration.calibration import Calibration, fit_calibration, most_images, most_references
from transfer.calibration.file import MOST_BYTES, load_calibration, save_calibration
from transfer.calibration.guarantees import Guarantees, keep
from transfer.errors import BadValue, DamagedFile, MissingData
from transfer.predictions import read_prediction

NAMES = ("cat", "dog", "owl")


def outputs(count: int, seed: int = 0, strange: bool = False) -> tuple[Any, Any, Any]:
    """Logits, classes and features of three classes, each with a direction of its own; strangers have another."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 3
    features = rng.normal(size=(count, 16)).astype(np.float32)
    features[np.arange(count), 8 if strange else targets] += 5
    return 1.5 * features[:, :3], targets, np.maximum(features, 0)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return fit_calibration(*outputs(300), network="abc")


def test_what_is_saved_is_loaded_and_the_bytes_are_the_same(calibration: Calibration, tmp_path: Path) -> None:
    save_calibration(calibration, tmp_path / "a")
    found = load_calibration(tmp_path / "a")
    assert found.fit == calibration.fit and found.network == "abc"
    for name in ("logits", "targets", "distances", "references"):
        np.testing.assert_array_equal(getattr(found, name), getattr(calibration, name))
        assert getattr(found, name).dtype == getattr(calibration, name).dtype
    logits, _, features = outputs(50, seed=1)
    for asked in ({"coverage": 0.8}, {"coverage": 0.95}, {"max_error": 0.1}):
        np.testing.assert_array_equal(
            found.rejected(logits, features, **asked), calibration.rejected(logits, features, **asked)
        )
    save_calibration(fit_calibration(*outputs(300), network="abc"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_it_loads_without_torch(calibration: Calibration, tmp_path: Path) -> None:
    save_calibration(calibration, tmp_path / "a")
    code = (
        "import sys; from pathlib import Path; from transfer.calibration.file import load_calibration;"
        f"found = load_calibration(Path({str(tmp_path / 'a')!r}));"
        "print(found.rejected(found.logits, found.references, coverage=0.9).sum(), found.sets(found.logits, 0.9)[:1]);"
        "print({'torch', 'scipy', 'datamodules', 'pytorch_lightning'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[1] == "set()"


def test_strangers_are_rejected_and_images_like_val_are_answered(calibration: Calibration) -> None:
    logits, targets, features = outputs(600, seed=2)
    _, _, strange = outputs(600, seed=3, strange=True)
    known, unknown = calibration.rank(logits, features), calibration.rank(logits, strange)
    assert calibration.rejected(logits, features, coverage=0.9).mean() == pytest.approx(0.1, abs=0.04)
    assert calibration.rejected(logits, strange, coverage=0.9).mean() > 0.9
    assert roc_auc_score(np.r_[np.zeros(600), np.ones(600)], -np.r_[known, unknown]) > 0.95
    held = [target in chosen for target, chosen in zip(targets, calibration.sets(logits, 0.9), strict=True)]
    assert np.mean(held) >= 0.87
    probabilities = calibration.probabilities(logits)
    assert probabilities.dtype == np.float32 and probabilities.sum(1) == pytest.approx(1, abs=1e-6)


def test_with_several_labels_only_the_distance_decides(tmp_path: Path) -> None:
    logits, targets, features = outputs(200)
    several = fit_calibration(logits, np.eye(3)[targets], features)
    save_calibration(several, tmp_path / "a")
    found = load_calibration(tmp_path / "a")
    assert found.multilabel and found.targets.dtype == bool
    _, _, strange = outputs(100, strange=True)
    assert found.rejected(logits[:100], strange, coverage=0.9).all()
    for refused in (lambda: found.sets(logits, 0.9), lambda: found.acceptance(max_error=0.1), found.risk_coverage):
        with pytest.raises(BadValue, match="several labels"):
            refused()
    for probability in (0.5, 0.3, 0.9):
        logit = np.array([[np.log(probability / (1 - probability))] * 3])
        assert found.threshold(probability) == pytest.approx(float(found.probabilities(logit)[0, 0]), abs=1e-6)
    assert found.threshold(0.5) == 0.5


def test_guarantees_are_kept_by_predictions(calibration: Calibration) -> None:
    logits, _, features = outputs(40, seed=4)
    predictions = [read_prediction(row, NAMES, 1) for row in calibration.probabilities(logits)]
    kept = keep(Guarantees(coverage=0.7, sets=0.95), calibration, predictions, logits, features, NAMES)
    rejected = calibration.rejected(logits, features, coverage=0.7)
    assert [p.unknown for p in kept] == rejected.tolist() and 0 < rejected.sum() < 40
    assert [p.class_set for p in kept] == [tuple(NAMES[i] for i in s) for s in calibration.sets(logits, 0.95)]
    assert all(p.class_set is not None and p.class_set[0] == p.class_name for p in kept)
    assert [p.top for p in kept] == [p.top for p in predictions]


@pytest.mark.parametrize(
    ("guarantees", "names", "said"),
    [
        (Guarantees(coverage=0.999), NAMES, "`coverage`=0.999: too few val images for it: at least 999 are needed"),
        (Guarantees(sets=0.999), NAMES, "`sets`=0.999: too few val images for it: at least 999 are needed"),
        (Guarantees(max_error=0.001), NAMES, "`max_error`=0.001: no threshold is known to reach it"),
        (Guarantees(coverage=0.9), ("cat", "unknown", "owl"), "a class of the run is called 'unknown'"),
        (Guarantees(coverage=0.9, max_error=0.1), NAMES, "`coverage` or `max_error`: give one of them"),
    ],
)
def test_what_val_cannot_promise_is_refused(
    calibration: Calibration, guarantees: Guarantees, names: tuple[str, ...], said: str
) -> None:
    with pytest.raises(BadValue) as error:
        guarantees.check(calibration, names)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_too_few_images_or_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(BadValue, match="1 val images: at least 2"):
        fit_calibration(*outputs(1))
    logits, targets, features = outputs(10)
    logits[3, 1] = np.nan
    with pytest.raises(DamagedFile, match="not finite"):
        fit_calibration(logits, targets, features)


def changed(**arrays: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = load_file(path)
        header = json.loads(path.read_bytes()[8 : 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]])
        save_file({**content, **arrays}, path, header["__metadata__"])

    return change


def with_facts(**values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = load_file(path)
        header = json.loads(path.read_bytes()[8 : 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]])
        ((key, text),) = header["__metadata__"].items()
        save_file(content, path, {key: json.dumps({**json.loads(text), **values})})

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged, or not a calibration"),
        (lambda path: path.write_bytes(b"\x80\x04K\x01."), "damaged, or not a calibration"),
        (lambda path: path.write_bytes(b""), "damaged, or not a calibration"),
        (lambda path: path.write_bytes(save({"logits": np.zeros((2, 2), np.float32)})), "not a calibration"),
        (with_facts(schema_version=2), "schema version 2 (readable here: at most 1); update efficientnet-transfer"),
        (with_facts(schema_version="1"), "schema version"),
        (with_facts(temperature="warm"), "temperature"),
        (with_facts(temperature=0.0), "temperature"),
        (with_facts(by_fold=[1.0]), "temperature"),
        (with_facts(network=None), "temperature"),
        (changed(logits=np.zeros((300, 3))), "logits: float64"),
        (changed(logits=np.full((300, 3), np.inf, np.float32)), "logits: not finite"),
        (changed(targets=np.full(300, 3)), "a target outside of 0..2"),
        (changed(targets=np.full(300, -1)), "a target outside of 0..2"),
        (changed(targets=np.zeros(299, np.int64)), "arrays of"),
        (changed(distances=np.zeros((300, 1), np.float32)), "arrays of"),
        (changed(references=np.zeros((0, 16), np.float16)), "arrays of"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused_in_one_line(
    calibration: Calibration, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "calibration.safetensors"
    save_calibration(calibration, path)
    change(path)
    with pytest.raises(DamagedFile) as error:
        load_calibration(path)
    assert str(path) in str(error.value) and said in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="no such file"):
        load_calibration(tmp_path / "calibration.safetensors")


def test_the_most_images_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfer.calibration.calibration.MOST_REFERENCES", 50)
    monkeypatch.setattr("transfer.calibration.calibration._MANY_LOGITS", 300)
    found = fit_calibration(*outputs(300))
    assert found.logits.shape == (100, 3) and found.references.shape == (50, 16)
    assert np.bincount(found.targets).min() > 25  # from all over
    assert replace(found, network="x").temperature == found.temperature


@pytest.mark.parametrize("num_classes", [1, 2, 10, 1000, 2098, 16_777, 21_841, 33_000, 70_000, 2**24])
@pytest.mark.parametrize("num_features", [1, 1280, 16_778, 2**24])
def test_no_file_is_larger_than_what_is_read(num_classes: int, num_features: int) -> None:
    images, references = most_images(num_classes), most_references(num_features)
    assert images >= 2 and references >= 2  # as few as a calibration needs
    labels = max(8, num_classes)  # int64, or a byte per label
    header = 10_000
    assert header + images * (4 * num_classes + labels + 4) + 2 * references * num_features <= MOST_BYTES
    if num_classes <= 16_777:
        assert images >= 2_000


def test_a_file_of_very_many_classes_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfer.calibration.calibration._MOST_NUMBERS", 450)
    monkeypatch.setattr("transfer.calibration.file.MOST_BYTES", 10_000 + 450 * 7 + 150 * 12)
    logits, targets, features = outputs(300)
    save_calibration(fit_calibration(logits, np.eye(3)[targets], features), tmp_path / "a")
    found = load_calibration(tmp_path / "a")
    assert found.logits.shape == (150, 3) and found.references.shape == (28, 16)
