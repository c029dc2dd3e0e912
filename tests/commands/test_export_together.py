"""efficientnet-transfer export RUN1 RUN2 writes a bundle that averages their probabilities, measured and calibrated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from datamodules import load_dataset
from tests.commands.test_export import contents, refused
from tests.support.bundles import exported
from tests.support.bundles import small_run as train
from tests.support.runs import call, save_csv, save_photo
from transfer import Guarantees, Run, load_bundle, load_run
from transfer.bundle.card import README
from transfer.bundle.record import read_record
from transfer.calibration.file import save_calibration
from transfer.calibration.temperature import as_probabilities, fit_temperature
from transfer.commands import check, export, predict
from transfer.commands.export import export as export_runs
from transfer.commands.export.together import check_together
from transfer.errors import BadValue
from transfer.run_files import CALIBRATION

pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime", reason="pip install onnxruntime onnx")
pytest.importorskip("openvino", reason="pip install openvino")
SAFE = ["safetensors", "onnx", "openvino"]
TEMPERATURES = (0.5, 1.7)


def set_temperature(run_dir: Path, temperature: float) -> None:
    fit = load_run(run_dir).calibration
    assert fit is not None
    save_calibration(replace(fit, fit=replace(fit.fit, temperature=temperature)), run_dir / CALIBRATION)


@pytest.fixture(scope="module")
def seeds(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of other widths on the same splits, each with a temperature of its own."""
    folder = tmp_path_factory.mktemp("runs") / "digits_tiny"
    shutil.copytree(small_run, folder / "1")
    train(folder / "2", "--seed", "1", "--backbone", "lite0@w=0.5,d=0.25")
    for number, temperature in enumerate(TEMPERATURES, 1):
        set_temperature(folder / str(number), temperature)
    return [folder / "1", folder / "2"]


@pytest.fixture(scope="module")
def ensemble(seeds: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "ens"
    export_runs(seeds, out=out, formats=["onnx", "openvino", "torch"])
    return out


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on the same photos, of which each has the other's val in train."""
    folder = tmp_path_factory.mktemp("folds")
    rows = [[f"{index}.png", ("cat", "dog")[index % 2]] for index in range(48)]
    for index in range(48):
        save_photo(folder / f"{index}.png", index, 60 + 120 * (index % 2))
    runs = []
    for fold in (0, 1):
        split = ["test" if i < 12 else "val" if (i < 24) == (fold == 0) and i < 36 else "train" for i in range(48)]
        table = save_csv(
            folder / f"fold{fold}.csv",
            [["image", "label", "split"], *([*row, name] for row, name in zip(rows, split, strict=True))],
        )
        words = ("--dataset", "folder", "--data_root", table, "--data.split_column", "split", "--data.batch_size", "8")
        runs.append(train(folder / "photos" / str(fold), *words))
    return runs


@pytest.fixture(scope="module")
def several_labels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of several labels per image, on the same splits."""
    folder = tmp_path_factory.mktemp("labels")
    rows = [["image", "label"]]
    for index in range(60):
        save_photo(folder / f"{index}.png", index, 40 * (index % 6))
        rows.append([f"{index}.png", ("day", "day|sea", "sea|tree", "tree", "day|tree", "sea")[index % 6]])
    table = save_csv(folder / "table.csv", rows)
    words = ("--dataset", "folder", "--data_root", table, "--data.multilabel", "true", "--loss.name", "bce")
    return [train(folder / str(i), *words, "--data.batch_size", "8", "--seed", str(i)) for i in (0, 1)]


def mean_of(runs: Sequence[Path], images: Sequence[bytes | Path]) -> np.ndarray:
    return np.mean([[p.probabilities for p in load_run(run).predict(images)] for run in runs], axis=0, dtype=np.float64)


def images_of(split: str) -> tuple[list[bytes], np.ndarray]:
    found = load_dataset("digits").splits[split]
    return [bytes(found.encoded(index)) for index in range(len(found))], found.labels.numpy()


@pytest.mark.parametrize("format", SAFE)
def test_probabilities_are_the_mean_of_the_runs(seeds: list[Path], ensemble: Path, format: str) -> None:
    images = images_of("val")[0][:40]
    model = load_bundle(ensemble, format)
    found = np.stack([p.probabilities for p in model.predict(images)])
    sharpened = mean_of(seeds, images) ** (1 / model.folder.record.temperature)
    np.testing.assert_allclose(found, sharpened / sharpened.sum(1, keepdims=True), atol=1e-5)
    own = np.stack([p.probabilities for p in load_run(seeds[0]).predict(images)])
    assert np.abs(found - own).max() > 1e-3


def test_the_average_is_measured_and_calibrated_on_what_the_runs_share(seeds: list[Path], ensemble: Path) -> None:
    record = read_record(ensemble / "model.json")
    for split in ("val", "test"):
        images, labels = images_of(split)
        mean = mean_of(seeds, images)
        assert record.metrics[split]["top1"] == pytest.approx((mean.argmax(1) == labels).mean(), abs=1e-6)
        picked = mean[np.arange(len(labels)), labels]
        assert record.metrics[split]["loss"] == pytest.approx(-np.log(picked).mean(), abs=1e-5)
        low, high = vars(record.intervals[split]["top1"]).values()
        assert low < record.metrics[split]["top1"] < high
        if split == "val":
            fit = fit_temperature(np.log(mean), labels)
            assert record.temperature == pytest.approx(fit.temperature, rel=1e-3)
            assert record.calibration is not None and record.calibration.num_images == 180
            assert record.calibration.ece_after == pytest.approx(fit.ece_after, abs=1e-3)
    results = [json.loads((run / "results.json").read_text()) for run in seeds]
    assert [member.temperature for member in record.members] == list(TEMPERATURES)
    assert [member.run for member in record.members] == ["digits_tiny/1", "digits_tiny/2"]
    assert [member.metrics for member in record.members] == [found["metrics"] for found in results]
    assert {name: found.num_seen for name, found in record.formats.items()} == dict.fromkeys(record.formats, 0)
    assert (record.name, record.num_parameters) == ("digits_tiny", sum(found["num_parameters"] for found in results))
    answered = load_bundle(ensemble).predict(images[:20], guarantees=Guarantees(coverage=0.8, sets=0.9))
    assert all(prediction.class_set for prediction in answered)


def test_reading_test_is_counted_and_said(
    seeds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [json.loads((run / "test_reads.json").read_text())["reads"] for run in seeds]
    argv = (*seeds, "--out", tmp_path / "b", "--format", "onnx", "--golden", "noise")
    assert call(export.main, *argv) == 0
    said = capsys.readouterr().out
    assert "test was read for the average" in said and "top1 of the average of 2 runs: " in said
    record = read_record(tmp_path / "b" / "model.json")
    for member in record.members:
        assert f"{100 * member.metrics['val']['top1']:.2f}%" in said
    assert f"{100 * record.metrics['val']['top1']:.2f}% ({record.intervals['val']['top1'].percent()})" in said
    after = [json.loads((run / "test_reads.json").read_text())["reads"] for run in seeds]
    assert after == [count + 1 for count in before] and record.golden == "noise"


def test_the_bundle_proves_itself_and_exports_itself_again(ensemble: Path, tmp_path: Path) -> None:
    assert call(check.main, ensemble, "--allow_user_code") == 0
    assert contents(exported(ensemble, tmp_path / "again")) == contents(ensemble)


def test_8_bits_of_the_average_and_the_bundle_exported_again(
    seeds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf", reason="pip install nncf")
    out, names = tmp_path / "ens", ["onnx", "openvino", "onnx-int8", "openvino-int8"]
    export_runs(seeds, out, formats=["onnx", "openvino"], int8=True, max_drop=100)
    record = read_record(out / "model.json")
    assert list(record.formats) == names and len(record.members) == 2
    images, labels = images_of("val")
    for name in names[2:]:
        found, answers = record.formats[name], load_bundle(out, name).predict(images)
        assert found.loss is not None and found.parts == "weights and activations"
        right = [prediction.class_name == str(label) for prediction, label in zip(answers, labels, strict=True)]
        assert found.loss.accuracy == pytest.approx(np.mean(right))
        assert found.loss.float32 == pytest.approx(record.metrics["val"]["top1"], abs=1e-6)
    assert call(check.main, out) == 0
    assert contents(exported(out, tmp_path / "again")) == contents(out)
    fewer = read_record(exported(out, tmp_path / "fewer", "--format", "onnx", "--int8") / "model.json")
    assert fewer.formats == {name: record.formats[name] for name in ("onnx", "onnx-int8")}
    one = exported(out, tmp_path / "one", "--format", "onnx")
    assert f"{one} holds no onnx-int8, and no training images; export its run" in refused(
        capsys, one, "--out", tmp_path / "b", "--int8"
    )


def test_without_images_the_average_is_written_and_not_measured(
    several_labels: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ("--data_root", tmp_path / "nowhere.csv", "--format", "onnx")
    photos = sorted(several_labels[0].parent.glob("*.png"))[:10]
    message = refused(capsys, *several_labels, "--out", tmp_path / "b", *nowhere)
    assert "nowhere.csv" in message and "--golden noise" in message and not (tmp_path / "b").exists()
    assert "nowhere.csv" in refused(
        capsys, *several_labels, "--out", tmp_path / "b", *nowhere, "--golden", "noise", "--int8"
    )
    with pytest.warns(UserWarning, match="formats are compared on the golden inputs alone"):
        assert call(export.main, *several_labels, "--out", tmp_path / "ens", *nowhere, "--golden", "noise") == 0
    said = capsys.readouterr().out
    assert "val map of the average of 2 runs: not measured" in said and "their average is not calibrated" in said
    assert "test was read" not in said
    record = read_record(tmp_path / "ens" / "model.json")
    assert (record.metrics, record.intervals, record.calibration, record.temperature) == ({}, {}, None, 1.0)
    assert (record.formats["onnx"].images, record.formats["onnx"].num_images) == ("golden", 8)
    runs = [load_run(run) for run in several_labels]
    assert record.threshold == pytest.approx(np.mean([run.label_threshold for run in runs]))
    found = [prediction.probabilities for prediction in load_bundle(tmp_path / "ens").predict(photos)]
    np.testing.assert_allclose(found, mean_of(several_labels, photos), atol=1e-5)
    assert "## Not known" in (card := (tmp_path / "ens" / README).read_text()) and "- its accuracy" in card
    assert call(check.main, tmp_path / "ens") == 0
    assert contents(exported(tmp_path / "ens", tmp_path / "again")) == contents(tmp_path / "ens")


def test_folds_are_averaged_but_not_measured_on_val(
    folds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_temperature(folds[0], 0.6)
    out = tmp_path / "ens"
    assert call(export.main, *folds, "--out", out, "--format", "onnx") == 0
    said = capsys.readouterr().out
    assert (
        "val top1 of the average of 2 runs: not measured" in said
        and "their average is not calibrated: no val split" in said
    )
    record = read_record(out / "model.json")
    assert (record.calibration, record.temperature) == (None, 1.0) and record.metrics.keys() == {"test"}
    assert (record.formats["onnx"].num_images, record.formats["onnx"].num_seen) == (12, 12)
    assert "12 of the images of val were trained on by one of the networks or more" in (out / README).read_text()
    photos = sorted(folds[0].parent.parent.glob("*.png"))[:8]
    found = np.stack([p.probabilities for p in load_bundle(out).predict(photos)])
    np.testing.assert_allclose(found, mean_of(folds, photos), atol=1e-5)
    fingerprints = [member.data.fingerprint for member in record.members]
    assert fingerprints[0]["val"] != fingerprints[1]["val"] and fingerprints[0]["test"] == fingerprints[1]["test"]
    assert call(check.main, out) == 0
    capsys.readouterr()
    assert call(predict.main, out, *photos, "--abstain") == 2
    assert f"has no {CALIBRATION}: its runs share no val split" in capsys.readouterr().err


def test_of_several_labels_the_sigmoids_are_averaged(several_labels: list[Path], tmp_path: Path) -> None:
    set_temperature(several_labels[0], 0.8)
    out = tmp_path / "ens"
    export_runs(several_labels, out, formats=["onnx", "openvino"])
    record, photos = read_record(out / "model.json"), sorted(several_labels[0].parent.glob("*.png"))

    def expected(images: Sequence[Path]) -> np.ndarray:
        mean = mean_of(several_labels, images)
        return as_probabilities((np.log(mean) - np.log1p(-mean)) / record.temperature, True)

    for format in SAFE:
        found = [prediction.probabilities for prediction in load_bundle(out, format).predict(photos)]
        np.testing.assert_allclose(found, expected(photos), atol=1e-5)
    assert record.multilabel and record.calibration is not None and record.formats.keys() == {"onnx", "openvino"}
    images, labels = val_of(load_run(several_labels[0]))
    mean, given = mean_of(several_labels, images), expected(images) >= record.threshold
    scores = [f1_score(labels, mean >= by, average="micro", zero_division=0) for by in np.linspace(0.05, 0.95, 91)]
    assert f1_score(labels, given, average="micro", zero_division=0) >= max(scores)
    precision = average_precision_score(labels, mean, average="macro")
    assert record.metrics["val"]["map"] == pytest.approx(precision, abs=1e-5)
    assert record.intervals["val"].keys() == {"map", "map_11", "f1", "exact_match"}


def val_of(run: Run) -> tuple[list[Path], np.ndarray]:
    from datamodules import get_sheet
    from datamodules.dataset.loaded import read_dataset
    from datamodules.dataset.sheet import ReadOptions, Source

    val = read_dataset(Source(get_sheet("folder"), ReadOptions(**run.config.read_options()))).splits["val"]
    return [Path(str(val.encoded(index))) for index in range(len(val))], val.labels.numpy().astype(int)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: replace(r, class_names=r.class_names[:9]), "2: number of classes 9, where {first} has 10"),
        (lambda r: replace(r, class_names=r.class_names[::-1]), "2: class 1 '9', where {first} has '0'"),
        (
            lambda r: replace(r, preprocessing=replace(r.preprocessing, image_size=48)),
            "2: image_size 48, where {first} has 32: their answers cannot be averaged; export it alone",
        ),
        (
            lambda r: replace(r, config=replace(r.config, data=replace(r.config.data, multilabel=True))),
            "2: `data.multilabel` True, where {first} has False",
        ),
        (
            lambda r: replace(r, config=replace(r.config, dataset="folder")),
            "2: `dataset` folder, where {first} has digits",
        ),
        (
            lambda r: replace(r, data={**r.data, "fingerprint": {**r.data["fingerprint"], "train": "12"}}),
            "2: digest of all images and labels ",
        ),
    ],
)
def test_runs_that_do_not_go_together_are_named(seeds: list[Path], change: Callable[[Run], Run], said: str) -> None:
    first, second = map(load_run, seeds)
    check_together([first, second])
    with pytest.raises(BadValue) as refusal:
        check_together([first, change(second)])
    assert said.format(first=seeds[0]) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_run_counts_once_and_a_bundle_is_no_run(
    seeds: list[Path], ensemble: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "b")
    assert f"{seeds[0]}: the same network as {seeds[0]}" in refused(capsys, seeds[0], seeds[1], seeds[0], *out)
    shutil.copytree(seeds[0], tmp_path / "copy")
    assert f"copy: the same network as {seeds[0]}" in refused(capsys, seeds[0], tmp_path / "copy", *out)
    assert f"{ensemble} is a bundle, which is exported again alone" in refused(capsys, seeds[0], ensemble, *out)
    with pytest.raises(BadValue, match="`runs`: none is given"):
        export_runs([], tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_one_run_in_a_list_is_the_run_itself(small_run: Path, bundle: Path, tmp_path: Path) -> None:
    export_runs([small_run], tmp_path / "b", formats=["onnx"])
    for name in ("model.onnx", "model.safetensors", CALIBRATION, "golden/golden.json"):
        assert (tmp_path / "b" / name).read_bytes() == (bundle / name).read_bytes()
    record = read_record(bundle / "model.json")
    assert [(m.run, m.temperature) for m in record.members] == [("digits_tiny/1", 1.0)]
    assert record.metrics == record.members[0].metrics
