"""efficientnet-transfer export writes a bundle whole or not at all, says what leaves, and repeats itself exactly."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from datamodules import load_dataset
from tests.support.bundles import TINY, copied, exported, sealed_again, small_run
from tests.support.runs import call, save_classes
from transfer import load_bundle, load_run
from transfer.bundle import writing
from transfer.bundle.folder import open_folder
from transfer.bundle.golden import INDEX
from transfer.bundle.record import read_record
from transfer.commands import check, export, probe
from transfer.errors import BadValue
from transfer.images.prepare import normalized

pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime", reason="pip install onnxruntime onnx")
pytest.importorskip("openvino", reason="pip install openvino")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """The one line of an export that must fail."""
    capsys.readouterr()
    assert call(export.main, *argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and len(captured.err.splitlines()) == 1, captured.err
    return captured.err


def test_a_bundle_exported_again_equals_itself(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = exported(bundle, tmp_path / "again")
    assert "golden inputs: photos of val, golden/0.png, golden/1.png, golden/2.png," in capsys.readouterr().out
    assert contents(again) == contents(bundle)
    assert {"model.onnx", "model.pt2", "model.safetensors", "openvino/model.bin", "README.md"} <= contents(again).keys()
    exported(bundle, tmp_path / "a.zip")
    exported(tmp_path / "a.zip", tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert contents(open_folder(tmp_path / "b.zip").folder) == contents(bundle)


def test_photos_that_tell_their_place_are_named(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(bundle, tmp_path / "b")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    with Image.open(tmp_path / "b" / "golden" / "3.png") as image:
        image.save(tmp_path / "b" / "golden" / "3.png", exif=exif)
    sealed_again(tmp_path / "b")
    for source, said in ((bundle, False), (tmp_path / "b", True)):
        exported(source, tmp_path / f"{said}.zip", "--format", "onnx")
        line = "their metadata say where they were taken (GPS): 3.png in golden/; --golden noise leaves photos out"
        assert (line in capsys.readouterr().out.splitlines()) is said


def test_torchscript_is_written_where_it_is_named_and_opened_where_it_is_allowed(
    small_run: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "model.ts" not in contents(bundle)
    named = exported(small_run, tmp_path / "named", "--format", "torchscript")
    assert contents(exported(named, tmp_path / "again")) == contents(named)
    found = read_record(named / "model.json").formats
    assert list(found) == ["torchscript"] and found["torchscript"].relative_difference < 1e-5
    capsys.readouterr()
    assert call(check.main, named) == 0
    assert "torchscript: left out: opening its file can execute code" in capsys.readouterr().out
    assert call(check.main, named, "--allow_user_code") == 0
    assert "torchscript  largest difference" in capsys.readouterr().out


def test_golden_inputs_are_files_of_val_with_the_networks_logits(small_run: Path, bundle: Path) -> None:
    val, run = load_dataset("digits").splits["val"], load_run(small_run)
    files = {val.encoded(index): int(val.labels[index]) for index in range(len(val))}
    index = json.loads((bundle / INDEX).read_text())
    classes = [files[(bundle / "golden" / row["file"]).read_bytes()] for row in index["inputs"]]
    assert sorted(classes) == [0, 1, 2, 3, 5, 6, 7, 9]  # eight of the ten, evenly spread
    pixels = np.stack([np.asarray(Image.open(bundle / "golden" / row["pixels"])) for row in index["inputs"]])
    import torch

    with torch.inference_mode():
        logits = run.classifier(torch.from_numpy(normalized(pixels, run.preprocessing))).numpy()
    np.testing.assert_allclose(logits, [row["logits"] for row in index["inputs"]], rtol=1e-5, atol=1e-5)


def test_export_says_what_leaves_and_how_close_the_formats_are(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(small_run, tmp_path / "bundle", "--format", "onnx")
    out = capsys.readouterr().out
    assert "8 photos of val leave with it, metadata and all: digits val row" in out and "180 val" in out
    found = load_bundle(tmp_path / "bundle").folder.record.formats["onnx"]
    assert found.num_seen == 0 and "were trained on" not in out
    assert f"{found.relative_difference:.1e}" in out and f"{found.milliseconds['1']:.2f}" in out
    assert set(found.milliseconds) == {"1", "32"}


def test_noise_leaves_in_place_of_photos(small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = exported(small_run, tmp_path / "bundle", "--format", "onnx", "--golden", "noise")
    assert "golden inputs: noise, no photo leaves with it" in capsys.readouterr().out
    record = read_record(bundle / "model.json")
    assert record.golden == "noise" and record.formats["onnx"].images == "val"
    val = load_dataset("digits").splits["val"]
    photos = {val.encoded(index) for index in range(len(val))}
    assert not photos & set(contents(bundle).values())
    assert call(check.main, bundle) == 0
    again = exported(bundle, tmp_path / "again")
    assert contents(again) == contents(bundle)


def test_without_its_images_a_run_is_exported_with_noise_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = save_classes(tmp_path / "photos", {"cat": 24, "dog": 24})
    data = ("--dataset", "folder", "--data_root", photos, "--data.batch_size", "8")
    run = small_run(tmp_path / "photos_tiny" / "1", *data)
    moved = photos.rename(tmp_path / "moved")
    message = refused(capsys, run, "--out", tmp_path / "b", "--format", "onnx")
    assert "--data_root" in message and "--golden noise" in message
    with pytest.warns(UserWarning, match="formats are compared on the golden inputs alone"):
        bundle = exported(run, tmp_path / "b", "--format", "onnx", "--golden", "noise")
    capsys.readouterr()
    assert read_record(bundle / "model.json").formats["onnx"].images == "golden"
    bundle = exported(run, tmp_path / "c", "--format", "onnx", "--data_root", moved)
    out = capsys.readouterr().out
    assert str(moved / "cat") in out.replace("\n", "")
    record = read_record(bundle / "model.json")
    assert record.data.name == "photos" and record.data.licence is None and record.name == "photos_tiny"
    (moved / "cat" / "0.png").unlink()
    assert "data changed" in refused(capsys, run, "--out", tmp_path / "d", "--data_root", moved)


def test_a_run_without_val_gets_noise(small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.support.bundles import small_run as train

    run = train(tmp_path / "run", "--data.train_on", "trainval")
    argv = (run, "--out", tmp_path / "b", "--format", "onnx")
    assert "has no val split; --golden noise takes noise" in refused(capsys, *argv, "--golden", "photos")
    bundle = exported(run, tmp_path / "b", "--format", "onnx")
    assert read_record(bundle / "model.json").formats["onnx"].images == "golden"
    assert call(check.main, bundle) == 0


def test_nothing_is_overwritten_unless_asked(
    small_run: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copied(bundle, tmp_path / "other")
    before = contents(other)
    assert "exists; --overwrite replaces it" in refused(capsys, small_run, "--out", other)
    message = refused(capsys, small_run, "--out", tmp_path, "--overwrite")
    assert "exists and is no bundle" in message
    assert contents(other) == before
    exported(small_run, other, "--format", "onnx", "--overwrite")
    assert "model.pt2" not in contents(other)


def test_what_fails_leaves_nothing(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writing, "TOLERANCE", 0.0)
    message = refused(capsys, small_run, "--out", tmp_path / "b", "--format", "openvino")
    assert "--format openvino: its logits of the golden inputs differ from PyTorch's" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "onyx"), "unknown format 'onyx'; did you mean 'onnx'?"),
        (("--format", "torch", "--int8"), "--int8: torch has no 8 bits"),
        (("--max_drop", "-1"), "--max_drop -1"),
        (("--out", "nowhere/b"), "--out nowhere/b: no such folder"),
    ],
)
def test_bad_arguments_are_refused(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert said in refused(capsys, small_run, "--out", tmp_path / "b", *words)


def test_what_is_no_finished_run_is_refused(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "b")
    assert "is not a finished run" in refused(capsys, tmp_path, *out)
    assert "none: no such run" in refused(capsys, tmp_path / "none", *out)
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("head: linear", "head: os.getcwd"))
    message = refused(capsys, run, *out)
    assert "head=os.getcwd is code of your own" in message
    (run / "config.yaml").write_text(config)
    (run / "best.ckpt").write_bytes(b"damaged")
    assert "best.ckpt" in refused(capsys, run, *out)


def test_a_bundle_takes_no_options_of_a_run(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "b")
    assert "is a bundle: --golden, --checkpoint and --data_root" in refused(capsys, bundle, *out, "--golden", "noise")
    assert "holds no onnx-int8" in refused(capsys, bundle, *out, "--format", "onnx", "--int8")
    other = copied(bundle, tmp_path / "other")
    (other / "model.onnx").write_bytes(b"changed")
    assert "model.onnx: changed since" in refused(capsys, other, *out)
    sealed_again(other)
    assert call(export.main, other, *out, "--format", "onnx") == 0  # it is written anew, from the tensors
    assert (tmp_path / "b" / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_8_bits_are_measured_on_val(small_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="pip install nncf")
    bundle = tmp_path / "b"
    words = ("export", small_run, "--out", bundle, "--format", "onnx,openvino", "--int8", "--max_drop", "100")
    # In a process of its own, as a user does: quantisation leaves much behind in this one.
    subprocess.run([sys.executable, "-m", "transfer", *map(str, words)], check=True, capture_output=True)
    record = read_record(bundle / "model.json")
    assert list(record.formats) == ["onnx", "openvino", "onnx-int8", "openvino-int8"]
    results = json.loads((small_run / "results.json").read_text())
    for name in ("onnx-int8", "openvino-int8"):
        loss = record.formats[name].loss
        assert loss is not None and loss.float32 == pytest.approx(results["metrics"]["val"]["top1"], abs=1e-6)
        assert loss.drop == pytest.approx(loss.float32 - loss.accuracy, abs=1e-6)
        assert loss.interval.low <= loss.drop <= loss.interval.high
        assert record.formats[name].parts == "weights and activations"
    assert record.formats["onnx"].loss is None and record.formats["onnx"].parts is None
    assert call(check.main, bundle) == 0


@pytest.mark.parametrize(("right", "refused"), [(199, False), (197, True)])
def test_8_bits_that_cost_too_much_are_refused(bundle: Path, right: int, refused: bool) -> None:
    """Of 200 images float32 answers 199 rightly."""
    labels = np.zeros(200, np.int64)
    expected, mine = (np.eye(2, dtype=np.float32)[(np.arange(200) >= number).astype(int)] for number in (199, right))
    record = read_record(bundle / "model.json")
    examples = writing.Examples([], labels, num_seen=0)
    if not refused:
        found = writing._checked_loss("onnx-int8", mine, expected, examples, record, 0.5)
        assert found is not None and (found.float32, found.accuracy, found.drop) == (0.995, 0.995, 0)
        return
    with pytest.raises(BadValue, match=r"-1\.00 points .* `max_drop`=0\.5 points is allowed: nothing is written"):
        writing._checked_loss("onnx-int8", mine, expected, examples, record, 0.5)


def test_a_probes_last_fit_has_seen_val(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    photos = save_classes(tmp_path / "photos", {"cat": 20, "dog": 20})
    words = ("--backbone", TINY, "--pretrained", "false", "--data_root", photos, "--image_size", "32")
    assert call(probe.main, *words, "--out_dir", run) == 0
    seen = json.loads((run / "results.json").read_text())["splits"]["val"]["size"]
    bundle = exported(run, tmp_path / "bundle", "--format", "onnx")
    assert read_record(bundle / "model.json").formats["onnx"].num_seen == seen > 0
    said = f"{seen} of the images of val were trained on"
    assert said in capsys.readouterr().out and said in (bundle / "README.md").read_text()
