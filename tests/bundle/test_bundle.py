"""A bundle answers as its run does, in every format, without torch where it can be; a changed one is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.fuzz.damages import cuts, flips
from tests.support.bundles import copied, sealed_again
from tests.support.runs import ROOT, call, environment, save_photo
from transfer import Guarantees, load_bundle, load_run
from transfer.bundle.folder import open_folder
from transfer.bundle.record import Record
from transfer.calibration.file import load_calibration, save_calibration
from transfer.commands import check, predict
from transfer.errors import BadValue, MissingData, UserError
from transfer.run_files import CALIBRATION

pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime", reason="pip install onnxruntime onnx")
pytest.importorskip("openvino", reason="pip install openvino")
SAFE = ["safetensors", "onnx", "openvino"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    sizes = [(40, 30), (30, 90), (200, 50), (33, 33)]
    for index, size in enumerate(sizes):
        pixels = np.random.default_rng(index).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(folder / f"{index}.jpg", exif=exif)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("format", SAFE)
def test_every_format_answers_as_the_run_does(small_run: Path, bundle: Path, photos: list[Path], format: str) -> None:
    expected = load_run(small_run).predict(photos, top_k=3)
    found = load_bundle(bundle, format).predict(photos, top_k=3, batch_size=3)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.probabilities, theirs.probabilities, atol=1e-4)
        assert mine.class_name == theirs.class_name and len(mine.top) == 3


def test_a_bundle_knows_what_its_run_knows(small_run: Path, bundle: Path) -> None:
    model, run = load_bundle(bundle), load_run(small_run)
    assert (model.class_names, model.preprocessing) == (run.class_names, run.preprocessing)
    assert repr(model) == f"Bundle(folder=BundleFolder(path={bundle!r}, folder={bundle!r}), format='openvino')"
    results = json.loads((small_run / "results.json").read_text())
    assert model.metrics == results["metrics"]
    record = model.folder.record
    assert record.name == "digits_tiny" and record.data.licence == "CC BY 4.0"
    assert record.data.fingerprint == run.data["fingerprint"]
    assert {name: found.num_images for name, found in record.formats.items()} == dict.fromkeys(record.formats, 180)
    assert all(found.relative_difference <= 1e-4 and found.same_top1 == 1 for found in record.formats.values())


def test_a_bundle_leaves_unanswered_what_its_run_does(
    small_run: Path, bundle: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    guarantees = Guarantees(coverage=0.8, sets=0.9)
    expected = load_run(small_run).predict(photos, guarantees=guarantees)
    for format in SAFE:
        found = load_bundle(bundle, format).predict(photos, guarantees=guarantees)
        assert [(p.unknown, p.class_set) for p in found] == [(p.unknown, p.class_set) for p in expected]
    assert any(prediction.unknown for prediction in found)  # noise, unlike digits
    summary = json.loads((small_run / "results.json").read_text())["calibration"]
    record = load_bundle(bundle).folder.record
    assert record.calibration is not None and record.temperature == summary["temperature"]
    assert vars(record.calibration) == {name: summary[name] for name in ("num_images", "ece_before", "ece_after")}
    capsys.readouterr()
    assert call(predict.main, bundle, *photos, "--abstain", "--coverage", "0.8", "--sets", "0.9") == 0
    said = capsys.readouterr()
    assert [line.split(",")[1] for line in said.out.splitlines()[1:]] == [
        "unknown" if p.unknown else p.class_name for p in expected
    ]
    assert f"{sum(p.unknown for p in expected)} of 4 images are unknown" in said.err


def without_calibration(bundle: Path) -> None:
    (bundle / CALIBRATION).unlink()
    sealed_again(bundle, lambda r: replace(r, files={n: d for n, d in r.files.items() if n != CALIBRATION}))


def other_calibration(bundle: Path) -> None:
    fit = load_calibration(bundle / CALIBRATION)
    save_calibration(replace(fit, logits=fit.logits[:, :3], targets=fit.targets % 3), bundle / CALIBRATION)
    sealed_again(bundle)


def calibration_of_another_network(bundle: Path) -> None:
    fit = load_calibration(bundle / CALIBRATION)
    save_calibration(replace(fit, references=fit.references[:, :7]), bundle / CALIBRATION)
    sealed_again(bundle)


def damaged_calibration(bundle: Path) -> None:
    (bundle / CALIBRATION).write_bytes(b"damaged")
    sealed_again(bundle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_calibration, "export its run again, once it has one"),
        (other_calibration, "of 3 classes"),
        (calibration_of_another_network, "of another network"),
        (damaged_calibration, "damaged, or not a calibration"),
        (lambda bundle: flip(CALIBRATION)(bundle), "changed since it was written"),
    ],
)
def test_without_its_calibration_a_bundle_does_not_abstain(
    bundle: Path,
    tmp_path: Path,
    photos: list[Path],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    said: str,
) -> None:
    other = copied(bundle, tmp_path / "other")
    change(other)
    assert call(predict.main, other, *photos, "--abstain", "--out", tmp_path / "rows.csv") == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err and not (tmp_path / "rows.csv").exists()


def test_images_come_in_any_form(bundle: Path, photos: list[Path]) -> None:
    model = load_bundle(bundle)
    with Image.open(photos[0]) as image:
        given = [photos[0], str(photos[0]), photos[0].read_bytes(), image]
        found = model.predict(given, top_k=1)
    assert len({prediction.probabilities.tobytes() for prediction in found}) == 1
    assert model.predict([]) == []
    assert len(model.predict([np.zeros((5, 7), np.uint8)])) == 1
    with pytest.raises(BadValue, match="pass a list of images"):
        model.predict(str(photos[0]))
    with pytest.raises(BadValue, match="`top_k`=0"):
        model.predict(photos, top_k=0)


def test_the_default_is_the_first_float32_format_that_is_held(bundle: Path, tmp_path: Path) -> None:
    assert load_bundle(bundle).format == "openvino"

    def without_openvino(record: Record) -> Record:
        return replace(record, formats={"onnx": record.formats["onnx"]})

    other = copied(bundle, tmp_path / "other")
    sealed_again(other, without_openvino)
    assert load_bundle(other).format == "onnx"
    with pytest.raises(BadValue, match=r"does not hold it \(it holds: safetensors, onnx\)"):
        load_bundle(other, "openvino")


def test_the_format_that_can_hold_code_is_not_opened(bundle: Path) -> None:
    with pytest.raises(BadValue, match="can execute code"):
        load_bundle(bundle, "torch")


# As where they are not installed: importing them fails, and looking for them finds nothing.
BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(("torch", "datamodules", "pytorch_lightning", "lightning")))
"""


def run_without_torch(code: str, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED + code, *map(str, argv)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_bundle_predicts_without_torch(bundle: Path, photos: list[Path], format: str) -> None:
    code = """
from transfer import load_bundle
print(load_bundle(sys.argv[1], sys.argv[2]).predict([sys.argv[3]])[0].class_name)
assert not any(sys.modules.get(name) for name in ("torch", "datamodules", "pytorch_lightning"))
"""
    result = run_without_torch(code, bundle, format, photos[1])
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == load_bundle(bundle, "safetensors").predict([photos[1]])[0].class_name


@pytest.mark.parametrize("verb", ["predict", "check"])
def test_the_commands_run_without_torch(bundle: Path, photos: list[Path], verb: str) -> None:
    code = "from transfer.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    result = run_without_torch(code, verb, bundle, *(photos if verb == "predict" else ()))
    assert result.returncode == 0, result.stderr
    if verb == "predict":
        assert len(result.stdout.splitlines()) == 1 + len(photos) and "format: openvino" in result.stderr
    else:
        assert "safetensors: left out: torch is not installed" in result.stdout
        assert result.stdout.count(": ok") == 2


def test_predict_writes_the_rows_of_the_run(
    small_run: Path, bundle: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {}
    for model, engine in ((small_run, "torch"), (bundle, "torch"), (bundle, "onnxruntime")):
        assert call(predict.main, model, *photos, "--top_k", "2", "--format", "json", "--engine", engine) == 0
        captured = capsys.readouterr()
        rows[model, engine] = [json.loads(line) for line in captured.out.splitlines()]
    assert "format: onnx" in captured.err
    for found in list(rows.values())[1:]:
        for mine, theirs in zip(found, rows[small_run, "torch"], strict=True):
            assert (
                mine.keys() == theirs.keys() and mine["image"] == theirs["image"] and mine["class"] == theirs["class"]
            )
            assert mine["probability"] == pytest.approx(theirs["probability"], abs=1e-4)


def test_the_reader_in_the_bundle_prints_what_the_onnx_format_answers(bundle: Path, photos: list[Path]) -> None:
    result = subprocess.run(
        [sys.executable, "predict.py", *map(str, photos)],
        cwd=bundle,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = load_bundle(bundle, "onnx").predict(photos)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [(path, name) for path, name, _ in lines] == [
        (str(path), found.class_name) for path, found in zip(photos, expected, strict=True)
    ]
    assert [float(value) for *_, value in lines] == pytest.approx([found.probability for found in expected], abs=1e-4)


def test_predict_names_what_it_cannot_read(
    bundle: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    assert call(predict.main, bundle, tmp_path / "text.jpg", photos[0], photos[0]) == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "text.jpg: not an image" in captured.err and "1 of 3 images could not be read" in captured.err
    for flags, said in ((("--engine", "openvino-bf16"), "--engine"), (("--checkpoint", "last"), "--checkpoint")):
        assert call(predict.main, bundle, photos[0], *flags) == 2
        assert f"error: {said} {flags[1]}: {bundle} is a bundle" in capsys.readouterr().err


def test_a_huge_image_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = copied(bundle, tmp_path / "small")
    sealed_again(small, lambda record: replace(record, max_pixels=700))
    photo = save_photo(tmp_path / "photo.png", 0)  # 720 pixels
    assert call(predict.main, small, photo) == 1
    assert "720 pixels are more than" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"photo\.png: 30 x 24"):
        load_bundle(small).predict([photo])


def test_check_passes_where_the_bundle_was_made(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(check.main, bundle) == 0
    out = capsys.readouterr().out
    assert "after preprocessing: equal" in out and "torch: left out" in out and "--allow_user_code" in out
    assert out.count("same class 8 of 8: ok") == 3
    assert call(check.main, bundle, "--allow_user_code", "--format", "torch,onnx") == 0
    assert capsys.readouterr().out.count(": ok") == 2


@pytest.mark.parametrize(("name", "said"), [("torch", "--allow_user_code"), ("onnx-int8", "does not hold it")])
def test_a_format_that_is_asked_for_is_checked_or_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert call(check.main, bundle, "--format", f"onnx,{name}") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"error: --format {name}: ") and said in captured.err


def shift_logits(bundle: Path) -> None:
    index = json.loads((bundle / "golden" / "golden.json").read_text())
    largest = max(abs(value) for row in index["inputs"] for value in row["logits"])
    index["inputs"][3]["logits"][0] += 3e-4 * largest
    (bundle / "golden" / "golden.json").write_text(json.dumps(index))


def shift_pixels(bundle: Path) -> None:
    path = bundle / "golden" / "2.pixels.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def other_weights(bundle: Path) -> None:
    path = bundle / "model.safetensors"
    tensors = load_file(path)
    tensors["head.fc.bias"][0] += 0.5
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shift_logits, "onnx         largest difference 3.0e-04 of the largest logit, same class 8 of 8: DEVIATES"),
        (shift_pixels, "after preprocessing: differ by up to 1 of 255: DEVIATES"),
        (other_weights, "DEVIATES"),
    ],
)
def test_a_deviation_is_found(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], said: str
) -> None:
    other = copied(bundle, tmp_path / "other")
    change(other)
    sealed_again(other)
    assert call(check.main, other) == 1
    assert said in capsys.readouterr().out


def flip(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        content = bytearray((bundle / name).read_bytes())
        content[len(content) // 2] ^= 1
        (bundle / name).write_bytes(content)

    return change


def other_opset(bundle: Path) -> None:
    import onnx

    model = onnx.load(bundle / "model.onnx")
    for opset in model.opset_import:
        opset.version = 99
    onnx.save(model, bundle / "model.onnx")
    sealed_again(bundle)


def other_classes(bundle: Path) -> None:
    sealed_again(bundle, lambda record: replace(record, class_names=("a", "b", "c")))


def user_code(bundle: Path) -> None:
    def change(record: Record) -> Record:
        member = record.members[0]
        return replace(record, members=(replace(member, network=replace(member.network, backbone="os.getcwd")),))

    sealed_again(bundle, change)


def newer(bundle: Path) -> None:
    sealed_again(bundle, lambda record: replace(record, schema_version=2))


def outside(bundle: Path) -> None:
    sealed_again(bundle, lambda record: replace(record, files={**record.files, "../x": "00"}))


def no_image(bundle: Path) -> None:
    (bundle / "golden" / "0.png").write_bytes(b"text")
    sealed_again(bundle)


def text(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        (bundle / name).write_text("no network")
        sealed_again(bundle)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip("model.json"), "model.json"),
        (flip("model.onnx"), "model.onnx: changed since it was written"),
        (flip("model.safetensors"), "model.safetensors: changed since"),
        (flip("openvino/model.bin"), "openvino/model.bin: changed since"),
        (flip("golden/3.png"), "golden/3.png: changed since"),
        (flip("golden/golden.json"), "golden/golden.json: changed since"),
        (flip("README.md"), "README.md: changed since"),
        (flip("model.pt2"), "model.pt2: changed since"),
        (lambda bundle: (bundle / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda bundle: (bundle / "golden" / "5.pixels.png").unlink(), "golden/5.pixels.png is missing"),
        (lambda bundle: (bundle / "model.json").unlink(), "is no bundle"),
        (other_classes, "not the logits of 3 classes"),
        (user_code, "it is code, os.getcwd"),
        (newer, "schema version 2 (readable here: at most 1)"),
        (outside, "'../x' is no file inside the bundle"),
        (other_opset, "ONNX Runtime cannot open it"),
        (no_image, "golden/0.png: not an image"),
        (text("model.onnx"), "ONNX Runtime cannot open it"),
        (text("openvino/model.xml"), "OpenVINO cannot open it"),
        (text("model.safetensors"), "model.safetensors: not a safetensors"),
        (text("golden/golden.json"), "not JSON"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], Any], said: str
) -> None:
    other = copied(bundle, tmp_path / "other")
    change(other)
    assert call(check.main, other) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.out == ""
    assert captured.err.startswith("error: ") and len(captured.err.splitlines()) == 1, captured.err


def test_one_changed_byte_anywhere_is_found(bundle: Path, tmp_path: Path) -> None:
    other = copied(bundle, tmp_path / "other")
    paths = [path for path in other.rglob("*") if path.is_file()]
    assert len(paths) == len(load_bundle(bundle).folder.record.files) + 1
    for path in paths:
        content = path.read_bytes()
        for name, damaged in (flips(content, 5) | cuts(content, 2)).items():
            path.write_bytes(damaged)
            with pytest.raises(UserError) as refusal:
                open_folder(other).check_files()
            assert path.name in str(refusal.value) and "\n" not in str(refusal.value), name
        path.write_bytes(content)
    open_folder(other).check_files()


@pytest.mark.parametrize("format", SAFE)
def test_another_number_of_classes_is_refused_when_predicting(
    bundle: Path, tmp_path: Path, photos: list[Path], format: str
) -> None:
    other = copied(bundle, tmp_path / "other")
    other_classes(other)
    with pytest.raises(UserError, match=r"10 classes|model\.safetensors"):
        load_bundle(other, format).predict(photos)


def test_the_file_that_a_format_needs_is_compared_before_it_is_opened(bundle: Path, tmp_path: Path) -> None:
    other = copied(bundle, tmp_path / "other")
    flip("openvino/model.bin")(other)
    with pytest.raises(UserError, match=r"openvino/model\.bin: changed since"):
        load_bundle(other)
    assert load_bundle(other, "onnx").format == "onnx"
    (other / "model.onnx").unlink()
    with pytest.raises(MissingData, match=r"model\.onnx is missing"):
        load_bundle(other, "onnx")


def test_a_multilabel_bundle_gives_the_labels_from_its_threshold_on(
    bundle: Path, tmp_path: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = copied(bundle, tmp_path / "other")
    sealed_again(other, lambda record: replace(record, multilabel=True, threshold=0.6, temperature=2.0))
    model = load_bundle(other)
    logits = model.outputs([np.asarray(Image.open(photos[3]).convert("RGB"))]).logits
    expected = (torch.from_numpy(logits) / 2).sigmoid()[0].numpy()
    found = model.predict([np.asarray(Image.open(photos[3]).convert("RGB"))])[0]
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-6)
    assert {name for name, _ in found.labels} == {str(index) for index in np.flatnonzero(expected >= 0.6)}
    assert call(predict.main, other, photos[3], "--format", "json") == 0
    assert json.loads(capsys.readouterr().out).keys() == {"image", "labels", "probabilities"}
