"""Every format computes from a file what the classifier itself computes, and opens without torch, or is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import warnings
import zipfile
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.inference.test_engines import with_statistics
from transfer.bundle.eight_bits import parts_in_8_bits
from transfer.bundle.formats import FORMATS, Outputs, open_format, write_format
from transfer.errors import UserError
from transfer.images.decode import Pixels, decode_image
from transfer.images.depth import Decoding
from transfer.images.prepare import normalized, prepare_pixels
from transfer.networks.classifier import Classifier
from transfer.preprocessing import IMAGENET, Preprocessing
from transfer.weights.build import build_classifier

PREPROCESSING = Preprocessing(64, 0.875, "bicubic", *IMAGENET, integer_range=(0, 4095))
FLOAT32 = [name for name in FORMATS if not name.endswith("-int8")]
installed = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime", "openvino"))), reason="pip install onnx onnxruntime openvino"
)
TINY = "lite0@w=0.25,d=0.25"
GATED = "lite0@blocks=r1_k3_e1_se0.25-r2_k3_e6-r2_k5_e6-r3_k3_e6-r3_k5_e6-r4_k5_e6-r1_k3_e6"


def image_files(folder: Path) -> list[Path]:
    """Pictures of every kind that preprocessing treats in its own way."""
    draw = np.random.default_rng(0)

    def blots(height: int, width: int, *channels: int) -> NDArray[np.uint8]:
        coarse = draw.integers(0, 256, (5, 5, *channels), dtype=np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))

    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(blots(90, 120, 3)).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(blots(60, 70, 4), "CMYK").save(folder / "cmyk.jpg")
    named = {"wide": (40, 300, 3), "tall": (300, 40, 3), "small": (7, 9, 3), "thin": (20, 1, 3), "flat": (1, 20, 3)}
    named |= {"clear": (80, 66, 4), "grey": (70, 90), "exact": (64, 64, 3)}
    for name, shape in named.items():
        Image.fromarray(blots(*shape)).save(folder / f"{name}.png")
    Image.fromarray(blots(75, 83).astype(np.uint16) * 16).save(folder / "deep.png")
    return sorted(folder.glob("*.[jp]*g"))


def decoded(folder: Path) -> list[Pixels]:
    images = [decode_image(path, Decoding.of(PREPROCESSING)) for path in image_files(folder)]
    assert len(images) == 11
    return images


@torch.no_grad()
def expected_outputs(classifier: Classifier, images: list[Pixels], preprocessing: Preprocessing) -> Outputs:
    pixels = np.stack([prepare_pixels(image, preprocessing) for image in images])
    maps = classifier.forward_features(torch.from_numpy(normalized(pixels, preprocessing)))
    features = classifier.forward_head(maps, pre_logits=True)
    return Outputs(classifier.head(features).numpy(), features.numpy())


def as_trained(
    backbone: str, head: str, images: list[Pixels], preprocessing: Preprocessing, num_classes: int = 4
) -> Classifier:
    """A network with a random head and BatchNorm statistics of these images: they change its logits, as after training.

    Channels that hardly vary are not blown up, in which float32's last digits would be seen.
    """
    classifier = build_classifier(backbone, num_classes, head=head, in_channels=len(preprocessing.mean)).eval()
    for parameter in classifier.head.parameters():
        if parameter.ndim:
            torch.nn.init.normal_(parameter, std=0.1)
    norms = [module for module in classifier.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    expected_outputs(classifier, images, preprocessing)
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var.clamp_(min=float(norm.running_var.median()))
    return classifier.eval()


def check(found: Outputs, expected: Outputs) -> None:
    for ours, theirs in ((found.logits, expected.logits), (found.features, expected.features)):
        assert ours.shape == theirs.shape and ours.dtype == np.float32
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


CASES = {  # the narrow and shallow networks have every kind of block of the whole ones
    "lite0": ("lite0", "stages", PREPROCESSING),
    "mlp": (TINY, "mlp", replace(PREPROCESSING, interpolation="bilinear", resize="squash")),
    "cosine, grey": (TINY, "cosine", PREPROCESSING.grey()),
    "b0": ("b0@w=0.5,d=0.3", "linear", PREPROCESSING),
    "v2-b0": ("v2-b0@w=0.5,d=0.6", "linear", replace(PREPROCESSING, image_size=65, crop_ratio=1.0)),
    "mobilenet-v2": ("mobilenet-v2@w=0.5,d=0.3", "linear", PREPROCESSING),
    "resnet50": ("resnet50@w=0.5,d=0.3", "linear", PREPROCESSING),
}


@installed
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_outputs_from_the_file_on_are_the_classifiers(case: str, tmp_path: Path) -> None:
    backbone, head, preprocessing = CASES[case]
    images = decoded(tmp_path)
    classifier = as_trained(backbone, head, images, preprocessing)
    expected = expected_outputs(classifier, images, preprocessing)
    assert np.ptp(expected.logits, axis=0).min() > 0.01 * np.abs(expected.logits).max()
    for name in FLOAT32 if case == "lite0" else ("onnx", "openvino"):
        write_format(name, classifier, preprocessing, tmp_path, multilabel=False)
        model = open_format(name, tmp_path, preprocessing, trusted=True)
        check(model(images), expected)
        check(model(images[:1]), Outputs(expected.logits[:1], expected.features[:1]))


def tiny() -> Classifier:
    classifier = with_statistics(build_classifier(TINY, 7))
    assert isinstance(classifier, Classifier)
    return classifier


@installed
@pytest.mark.parametrize("multilabel", [False, True])
def test_the_onnx_graph_alone_yields_probabilities_of_a_batch(multilabel: bool, tmp_path: Path) -> None:
    import onnxruntime as ort

    classifier = tiny()
    write_format("onnx", classifier, PREPROCESSING, tmp_path, temperature=1.7, multilabel=multilabel)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (3, 90, 120, 3), dtype=np.uint8)
    logits, features, probabilities, top, classes = session.run(None, {"images": images})
    check(Outputs(logits, features), expected_outputs(classifier, list(images), PREPROCESSING))
    scaled = torch.from_numpy(logits) / 1.7
    expected = (scaled.sigmoid() if multilabel else scaled.softmax(1)).numpy()
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    assert np.array_equal(classes, np.argsort(-probabilities, axis=1, kind="stable")[:, :5])
    assert np.array_equal(top, np.take_along_axis(probabilities, classes, axis=1))


@installed
def test_opening_needs_no_torch_and_reports_nothing(tmp_path: Path) -> None:
    classifier, images = tiny(), decoded(tmp_path)
    for name in ("onnx", "openvino"):
        write_format(name, classifier, PREPROCESSING, tmp_path, multilabel=False)
    np.savez(tmp_path / "images.npz", *images)
    (tmp_path / "home").mkdir()
    code = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "os.fork"):
        print("heard", event)
sys.addaudithook(watch)
import json, numpy as np
from pathlib import Path
from transfer.bundle.formats import open_format
from transfer.preprocessing import Preprocessing
folder, preprocessing = Path(sys.argv[1]), Preprocessing.from_entries(json.loads(sys.argv[2]))
images = np.load(folder / "images.npz")
for name in ("onnx", "openvino"):
    outputs = open_format(name, folder, preprocessing)([images[key] for key in images])
    np.savez(folder / f"{name}.npz", outputs.logits, outputs.features)
print(sorted({"torch", "datamodules", "pytorch_lightning", "onnx"} & set(sys.modules)))
"""
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), json.dumps(asdict(PREPROCESSING))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stderr
    assert list((tmp_path / "home").rglob("*")) == []
    for name in ("onnx", "openvino"):
        found = np.load(tmp_path / f"{name}.npz")
        check(Outputs(found["arr_0"], found["arr_1"]), expected_outputs(classifier, images, PREPROCESSING))


def digests(folder: Path) -> dict[str, str]:
    files = [file for name in FLOAT32 for file in FORMATS[name].files]
    return {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}


def write_all(folder: Path, layout: torch.memory_format = torch.contiguous_format) -> dict[str, str]:
    torch.manual_seed(0)
    classifier = tiny().to(memory_format=layout)  # type: ignore[call-overload]  # missing in its types
    for name in FLOAT32:
        write_format(name, classifier, PREPROCESSING, folder, multilabel=False)
    return digests(folder)


def test_how_much_training_dropped_is_not_in_the_files(tmp_path: Path) -> None:
    classifier, found = tiny(), []
    for rate in (0.0, 0.5):
        classifier.head.dropout.p = rate
        (tmp_path / str(rate)).mkdir()
        for name in ("torch", "torchscript"):
            write_format(name, classifier, PREPROCESSING, tmp_path / str(rate), multilabel=False)
        found.append(
            [(tmp_path / str(rate) / FORMATS[name].files[0]).read_bytes() for name in ("torch", "torchscript")]
        )
    assert found[0] == found[1] and classifier.head.dropout.p == 0.5


@installed
@pytest.mark.slow
def test_the_same_classifier_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    found = write_all(tmp_path / "a")
    assert write_all(tmp_path / "a", torch.channels_last) == found
    code = (
        "import json, sys, torch; from pathlib import Path; from tests.bundle.test_formats import write_all;"
        " torch.set_num_threads(1); print(json.dumps(write_all(Path(sys.argv[1]))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "7"}
    (tmp_path / "b").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "b")], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout) == found
    for path in (tmp_path / "a").rglob("*.*"):
        content = path.read_bytes()
        if path.suffix in (".pt2", ".ts"):
            content = b"".join(zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist())
        assert str(Path(__file__).parents[2]).encode() not in content and b".py" not in content, path


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx-int8", "openvino-int8"])
@pytest.mark.skipif(find_spec("nncf") is None, reason="pip install nncf")
def test_8_bits_are_a_quarter_of_the_size_and_nearly_the_same(name: str, tmp_path: Path) -> None:
    images = decoded(tmp_path)
    classifier = as_trained("lite0@w=0.5,d=0.25", "linear", images, PREPROCESSING)
    pixels = np.stack([prepare_pixels(image, PREPROCESSING) for image in images])
    sizes = []
    for kind in (name.removesuffix("-int8"), name):
        write_format(kind, classifier, PREPROCESSING, tmp_path, multilabel=False, calibration_pixels=pixels)
        files = [tmp_path / file for file in FORMATS[kind].files if not file.endswith(".xml")]
        sizes.append(files[0].stat().st_size)
        written = [path.read_bytes() for path in files]
    assert sizes[1] < 0.4 * sizes[0]
    assert parts_in_8_bits(classifier) == "weights and activations"
    expected, found = expected_outputs(classifier, images, PREPROCESSING), open_format(name, tmp_path, PREPROCESSING)
    difference = np.abs(found(images).logits - expected.logits).max() / np.abs(expected.logits).max()
    assert 1e-4 < difference < 0.4
    write_format(name, classifier, PREPROCESSING, tmp_path, multilabel=False, calibration_pixels=pixels)
    assert [path.read_bytes() for path in files] == written


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx-int8", "openvino-int8"])
@pytest.mark.skipif(find_spec("nncf") is None, reason="pip install nncf")
def test_networks_with_silu_have_their_weights_alone_in_8_bits(name: str, tmp_path: Path) -> None:
    images = decoded(tmp_path)
    classifier = as_trained("b0@w=0.5,d=0.25", "linear", images, PREPROCESSING)
    assert parts_in_8_bits(classifier) == "weights"
    pixels = np.zeros((1, 64, 64, 3), np.uint8)  # not looked at
    sizes, written = [], []
    for kind in (name.removesuffix("-int8"), name, name):
        write_format(kind, classifier, PREPROCESSING, tmp_path, multilabel=False, calibration_pixels=pixels)
        file = next(tmp_path / file for file in FORMATS[kind].files if not file.endswith(".xml"))
        sizes.append(file.stat().st_size)
        written.append(file.read_bytes())
    assert written[1] == written[2]
    # A byte for each number of a weight of more than one axis; other numbers take four.
    numbers = [parameter.numel() for parameter in classifier.parameters() if parameter.ndim > 1]
    assert sizes[0] - sizes[1] > 2.8 * sum(numbers)
    found = open_format(name, tmp_path, PREPROCESSING)(images)
    expected = expected_outputs(classifier, images, PREPROCESSING)
    assert 1e-4 < np.abs(found.logits - expected.logits).max() / np.abs(expected.logits).max() < 0.05


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize(
    ("backbone", "parts"),
    [
        *[(name, "weights and activations") for name in ("lite0", "mobilenet-v1", "mobilenet-v2", "resnet50")],
        *[(name, "weights") for name in ("b0", "v2-b0", GATED)],
    ],
)
def test_activations_are_in_8_bits_where_there_are_neither_silu_nor_gates(backbone: str, head: str, parts: str) -> None:
    with torch.device("meta"):
        assert parts_in_8_bits(build_classifier(backbone, 4, head=head)) == parts


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnx"), ("openvino", "openvino"), ("openvino-int8", "nncf")])
def test_a_missing_package_is_named_with_its_extra(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(UserError, match=rf"`format`={name}: .*pip install 'efficientnet-transfer\[(onnx|open)"):
        write_format(name, tiny(), PREPROCESSING, tmp_path, multilabel=False, calibration_pixels=pixels)


def test_unknown_formats_and_missing_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'onnx'"):
        open_format("onx", tmp_path, PREPROCESSING)
    with pytest.raises(UserError, match="unknown format 'tflite'"):
        write_format("tflite", tiny(), PREPROCESSING, tmp_path, multilabel=False)
    with pytest.raises(UserError, match="`calibration_pixels` are needed"):
        write_format("onnx-int8", tiny(), PREPROCESSING, tmp_path, multilabel=False)


@pytest.mark.parametrize("name", ["torch", "torchscript"])
def test_a_torch_program_is_opened_only_if_it_is_trusted(name: str, tmp_path: Path) -> None:
    path = tmp_path / FORMATS[name].files[0]
    with pytest.raises(UserError, match=rf"{path}: opening this file can execute code in it"):
        open_format(name, tmp_path, PREPROCESSING)
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match=rf"{path}: torch cannot open it"):
        open_format(name, tmp_path, PREPROCESSING, trusted=True)


def test_torchscript_answers_as_the_classifier_does_and_warns_of_nothing(tmp_path: Path) -> None:
    images, classifier = decoded(tmp_path), tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_format("torchscript", classifier, PREPROCESSING, tmp_path, multilabel=False)
        model = open_format("torchscript", tmp_path, PREPROCESSING, trusted=True)
    expected = expected_outputs(classifier, images, PREPROCESSING)
    check(model(images), expected)
    check(model(images[:1]), Outputs(expected.logits[:1], expected.features[:1]))
    assert classifier.training is False and all(p.requires_grad for p in classifier.parameters())


@installed
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_damaged_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / FORMATS[name].files[0]

    def refusal() -> str:
        with pytest.raises(UserError) as refused:
            open_format(name, tmp_path, PREPROCESSING)
        return str(refused.value)

    missing = refusal()
    write_format(name, tiny(), PREPROCESSING, tmp_path, multilabel=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    halved = refusal()
    path.write_bytes(b"")
    for text in (missing, halved, refusal()):
        assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 500, text


@installed
def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    import onnx

    write_format("openvino", tiny(), PREPROCESSING, tmp_path, multilabel=False)
    with pytest.raises(UserError, match=r"it takes pixels u8\[\?,64,64,3\] .* pixels u8\[\?,96,96,3\] .* expected"):
        open_format("openvino", tmp_path, replace(PREPROCESSING, image_size=96))
    write_format("onnx", tiny(), PREPROCESSING, tmp_path, multilabel=False)
    model = onnx.load(tmp_path / "model.onnx")
    newer = onnx.ModelProto.FromString(model.SerializeToString())
    newer.opset_import[0].version = 99
    onnx.save(newer, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx: ONNX Runtime cannot open it: .*opset"):
        open_format("onnx", tmp_path, PREPROCESSING)
    del model.graph.output[2:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="it takes images and returns logits, features, where images"):
        open_format("onnx", tmp_path, PREPROCESSING)
