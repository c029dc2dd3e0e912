"""A run is calibrated on val when it ends; `predict` answers by it, or says why it cannot."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.runs import CHEAP, call, read_results, save_classes, save_photo, untrained_run
from transfer import Guarantees
from transfer.calibration.calibration import fit_calibration
from transfer.calibration.file import load_calibration, save_calibration
from transfer.calibration.temperature import as_probabilities, expected_calibration_error
from transfer.commands import evaluate, finetune, predict, probe
from transfer.commands.calibrate import describe
from transfer.errors import DamagedFile, MissingData
from transfer.files import write_json
from transfer.run_files import CALIBRATION, RESULTS
from transfer.runs.calibrating import head_digest
from transfer.runs.predictor import load_run

pytestmark = pytest.mark.slow
COUNTS = {"cat": 60, "dog": 60, "owl": 60}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classes(tmp_path_factory.mktemp("photos"), COUNTS)


@pytest.fixture(scope="module")
def run_dir(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("calibrated") / "run"
    words = ("--dataset", "folder", "--data_root", photos, "--data.val_fraction", "0.3", "--data.batch_size", "16")
    assert call(finetune.main, *CHEAP, *words, "--out_dir", run_dir) == 0
    return run_dir


def predicted(run_dir: Path, out: Path, *argv: str | Path) -> list[dict[str, str]]:
    assert call(predict.main, run_dir, *argv, "--num_workers", "0", "--out", out) == 0
    with open(out, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_logits_are_those_of_an_evaluation_of_the_best_checkpoint(run_dir: Path, tmp_path: Path) -> None:
    found, results = load_calibration(run_dir / CALIBRATION), read_results(run_dir)
    size = results["splits"]["val"]["size"]
    assert found.logits.shape == (size, 3) and found.references.shape == (size, 1280)
    evaluation = evaluate.evaluate(run_dir, split="val", num_workers=0, out_dir=tmp_path / "out")
    np.testing.assert_allclose(as_probabilities(found.logits, False), evaluation.predictions.probabilities, atol=1e-4)
    np.testing.assert_array_equal(found.targets, evaluation.predictions.labels)
    summary = results["calibration"]
    assert summary["num_images"] == summary["references"] == size
    assert summary["temperature"] == found.temperature and summary["ece_after"] <= summary["ece_before"]
    ece = expected_calibration_error(as_probabilities(found.logits, False), found.targets)
    assert summary["ece_before"] == pytest.approx(ece) == pytest.approx(results["metrics"]["val"]["ece"], abs=1e-3)
    curve = summary["risk_coverage"]
    assert len(curve) == 20 and curve[-1][0] == 1.0
    assert curve[-1][1] == pytest.approx(1 - results["metrics"]["val"]["top1"], abs=1e-3)
    assert set(summary["sets"]) == {"0.9", "0.95"}


def test_the_temperature_is_in_predictions_and_not_in_evaluations(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run_dir, tmp_path / "run")
    paths = [photos / "cat" / f"{i}.png" for i in range(5)]
    (folder / CALIBRATION).unlink()
    raw = load_run(folder).predict(paths)
    found = load_calibration(run_dir / CALIBRATION)
    warm = type(found.fit)(2.5, 2.5, (2.5,) * 5, 0.2, 0.1, 1.0, 0.9)
    values = found.logits, found.targets, found.distances, found.references, found.network
    save_calibration(type(found)(warm, *values), folder / CALIBRATION)
    for before, after in zip(raw, load_run(folder).predict(paths), strict=True):
        expected = as_probabilities(np.log(before.probabilities[None]) / 2.5, False)[0]
        np.testing.assert_allclose(after.probabilities, expected, atol=1e-5)
        assert before.class_name == after.class_name
    metrics = [evaluate.evaluate(place, split="val", num_workers=0).metrics for place in (run_dir, folder)]
    assert metrics[0] == metrics[1]


def test_predict_leaves_images_unanswered_and_says_by_which_rule(
    run_dir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    found = load_calibration(run_dir / CALIBRATION)
    paths = [photos / name / f"{i}.png" for name in COUNTS for i in range(10)]
    strangers = [save_photo(tmp_path / f"{i}.png", i) for i in range(5)]
    rows = predicted(run_dir, tmp_path / "a.csv", *paths, *strangers, "--abstain", "--coverage", "0.8", "--sets", "0.9")
    said = capsys.readouterr().err
    assert list(rows[0]) == ["image", "class", "probability", "set"]
    unknown = [row for row in rows if row["class"] == "unknown"]
    assert f"{len(unknown)} of 35 images are unknown" in said
    acceptance = found.acceptance(coverage=0.8)
    assert f"below {acceptance.threshold:.3f} among {len(found.logits)} val images" in said
    assert f"cross-fitted, {found.measure_sets(0.9).coverage:.1%} have their class in the set" in said
    assert ("temperature" in said) == (found.temperature != 1)
    plain = predicted(run_dir, tmp_path / "b.csv", *paths, *strangers)
    assert [row["probability"] for row in rows] == [row["probability"] for row in plain]
    guarantees = Guarantees(coverage=0.8, sets=0.9)
    predictions = load_run(run_dir).predict([*paths, *strangers], guarantees=guarantees)
    assert [p.unknown for p in predictions] == [row["class"] == "unknown" for row in rows]
    assert ["|".join(p.class_set or ()) for p in predictions] == [row["set"] for row in rows]
    assert [p.class_name for p in predictions] == [row["class"] for row in plain]


def test_json_has_the_set_as_a_list(run_dir: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    words = ("--format", "json", "--num_workers", "0", "--top_k", "2", "--sets", "0.9")
    assert call(predict.main, run_dir, photos / "cat" / "0.png", *words) == 0
    row = json.loads(capsys.readouterr().out)
    assert list(row) == ["image", "class", "probability", "class_2", "probability_2", "set"]
    assert row["set"][0] == row["class"] and set(row["set"]) <= set(COUNTS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--coverage", "0.9"), "--coverage 0.9 without --abstain"),
        (("--abstain", "--coverage", "0.9", "--max_error", "0.1"), "--coverage 0.9 with --max_error 0.1"),
        (("--abstain", "--coverage", "0.999"), "--coverage 0.999: too few val images for it: at least 999 are needed"),
        (("--abstain", "--max_error", "0.001"), "--max_error 0.001: no threshold is known to reach it"),
        (("--sets", "0.999"), "--sets 0.999: too few val images"),
        (("--sets", "95"), "--sets 95 (allowed: above 0 and below 1)"),
        (("--sets", "0.9", "--checkpoint", "last"), f"no {CALIBRATION} for these answers: its"),
    ],
)
def test_what_cannot_be_promised_is_refused(
    run_dir: Path, photos: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    capsys.readouterr()
    assert call(predict.main, run_dir, photos, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and said in captured.err and captured.err.count("\n") == 1


def test_a_run_without_the_file_predicts_as_before_and_says_why_it_does_no_more(tmp_path: Path) -> None:
    image = save_photo(tmp_path / "0.png", 0)
    for name, fingerprint, reason in (
        ("a", {"val": "1"}, "it is unfinished|--calibrate"),
        ("b", {}, "without a val split"),
    ):
        run = load_run(untrained_run(tmp_path / name, ["cat", "dog"], fingerprint=fingerprint))
        with torch.inference_mode():
            assert run.calibration is None and not run.predict([image])[0].unknown
        with pytest.raises(MissingData, match=reason):
            run.predict([image], guarantees=Guarantees(coverage=0.9))


def test_a_lost_calibration_is_written_again_as_it_was(
    run_dir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(run_dir, tmp_path / "run")
    (folder / CALIBRATION).unlink()
    results = read_results(folder)
    write_json(folder / RESULTS, {**results, "calibration": None, "of_a_later_version": 1})
    capsys.readouterr()
    assert call(predict.main, folder, photos / "cat" / "0.png", "--abstain") == 2
    command = f"efficientnet-transfer evaluate {folder} --calibrate"
    assert command in capsys.readouterr().err
    assert call(evaluate.main, *command.split()[2:]) == 0
    out = capsys.readouterr().out
    assert "calibration: expected calibration error on val" in out and f"written: {folder / CALIBRATION}" in out
    assert read_results(folder) == {**results, "of_a_later_version": 1}
    assert (folder / CALIBRATION).read_bytes() == (run_dir / CALIBRATION).read_bytes()
    (folder / CALIBRATION).write_bytes(b"damaged")
    assert call(evaluate.main, folder, "--calibrate") == 0
    assert (folder / CALIBRATION).read_bytes() == (run_dir / CALIBRATION).read_bytes()


def test_a_calibration_of_other_images_is_refused(
    run_dir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(run_dir, tmp_path / "run")
    others = save_classes(tmp_path / "others", dict.fromkeys(COUNTS, 3))
    shutil.copytree(others, tmp_path / "split" / "val")
    unfinished = shutil.copytree(run_dir, tmp_path / "unfinished")
    (unfinished / "results.json").unlink()
    for words, said in (
        ((folder, "--split", "test"), "--calibrate with --split test (allowed: val)"),
        ((folder, "--checkpoint", "last"), "--calibrate with --checkpoint last (allowed: best)"),
        ((folder, "--data_root", tmp_path / "split"), "--calibrate: "),
        ((unfinished,), "is not a finished run"),
    ):
        capsys.readouterr()
        assert call(evaluate.main, *words, "--calibrate") == 2
        assert said in capsys.readouterr().err
    assert (folder / CALIBRATION).read_bytes() == (run_dir / CALIBRATION).read_bytes()


def test_a_calibration_of_another_network_is_refused(run_dir: Path, tmp_path: Path) -> None:
    other = untrained_run(tmp_path / "other", list(COUNTS))
    shutil.copy(run_dir / CALIBRATION, other / CALIBRATION)
    with pytest.raises(DamagedFile, match=r"of another network than best\.ckpt beside it: one of the two was replaced"):
        load_run(other)


def test_labels_of_a_multi_label_run_stay_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = untrained_run(tmp_path / "run", ["cat", "dog", "owl"], threshold=0.3, fingerprint={"val": "1"})
    images = [save_photo(tmp_path / "photos" / f"{i}.png", i) for i in range(8)]
    before = load_run(folder).predict(images)
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(300, 3))
    targets = rng.random((300, 3)) < as_probabilities(truth, True)
    digest = head_digest(load_run(folder).classifier.head)
    save_calibration(
        fit_calibration(3 * truth, targets, rng.gamma(2.0, size=(300, 1280)), digest), folder / CALIBRATION
    )
    run = load_run(folder)
    assert run.calibration is not None and run.calibration.temperature == pytest.approx(3, rel=0.3)
    after = run.predict(images)
    assert [[n for n, _ in p.labels] for p in after] == [[n for n, _ in p.labels] for p in before]
    assert any(p.labels for p in after)
    rows = predicted(folder, tmp_path / "a.csv", tmp_path / "photos", "--abstain")
    assert {row["labels"] for row in rows} == {"unknown"}  # the noise features are no neighbours of the network's
    capsys.readouterr()
    for words in (("--sets", "0.9"), ("--abstain", "--max_error", "0.1")):
        assert call(predict.main, folder, tmp_path / "photos", *words) == 2
        assert "an image may have several labels here" in capsys.readouterr().err


def test_a_run_that_cannot_be_calibrated_keeps_its_results(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise DamagedFile("the network's outputs on val are not finite numbers")

    monkeypatch.setattr("transfer.runs.calibrating.fit_calibration", refuse)
    words = ("--dataset", "folder", "--data_root", photos, "--out_dir", tmp_path / "run", "--trainer.max_epochs", "1")
    with pytest.warns(UserWarning, match="the run is not calibrated: the network's outputs"):
        assert call(finetune.main, *CHEAP, *words) == 0
    assert read_results(tmp_path / "run")["calibration"] is None
    assert not (tmp_path / "run" / CALIBRATION).exists()


def test_a_probe_is_calibrated_by_the_fit_to_train_alone(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--dataset", "folder", "--data_root", photos, "--image_size", "32", "--data.num_workers", "0")
    words = (*words, "--data.cache_dir", tmp_path / "cache", "--out_dir", tmp_path / "run", "--engine", "torch")
    assert call(probe.main, *words) == 0
    results, found = read_results(tmp_path / "run"), load_calibration(tmp_path / "run" / CALIBRATION)
    # The val metrics of a probe are those of the same fit.
    right = (found.logits.argmax(1) == found.targets).mean()
    assert right == pytest.approx(results["metrics"]["val"]["top1"])
    assert found.fit.nll_before == pytest.approx(results["metrics"]["val"]["loss"], abs=1e-4)
    assert re.search(r"calibration: expected calibration error on val \d+\.\d%", capsys.readouterr().out)
    prediction = load_run(tmp_path / "run").predict([photos / "cat" / "0.png"], guarantees=Guarantees(0.9, sets=0.9))
    assert prediction[0].class_set is not None


@pytest.mark.parametrize(
    ("fitted", "temperature", "fact"),
    [
        (0.001, 1.0, "no temperature: the lower it is, the better it fits val"),
        (10.0, 1.0, "no temperature: the higher it is, the better it fits val"),
        (0.72, 1.0, "a temperature of 0.72 would bring no gain on images left out"),
        (0.0234, 0.0234, "with a temperature of 0.023 "),
    ],
)
def test_the_line_says_why_there_is_no_temperature(fitted: float, temperature: float, fact: str) -> None:
    line = describe({"fitted": fitted, "temperature": temperature, "ece_before": 0.1, "ece_after": 0.1})
    assert fact in line
