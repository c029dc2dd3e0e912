"""Every format of several classifiers computes their mean probability, and 8 bits come near to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.bundle.test_formats import FLOAT32, PREPROCESSING, as_trained, check, decoded, expected_outputs, installed
from transfer.bundle.eight_bits import parts_in_8_bits
from transfer.bundle.formats import FORMATS, Outputs, open_format, write_format
from transfer.bundle.tensors import TorchNetwork
from transfer.calibration.temperature import as_probabilities
from transfer.images.prepare import prepare_pixels
from transfer.networks.ensemble import Ensemble

pytestmark = [installed, pytest.mark.slow]
TEMPERATURES = (0.7, 1.6)


def made(folder: Path, multilabel: bool) -> tuple[Ensemble, list[np.ndarray], Outputs]:
    """Two networks of other widths, images, and what the mean of their probabilities says of them, by numpy."""
    images = decoded(folder)
    members = [as_trained(f"lite0@w={width},d=0.25", "linear", images, PREPROCESSING) for width in (0.25, 0.5)]
    outputs = [expected_outputs(member, images, PREPROCESSING) for member in members]
    mean = np.mean(
        [as_probabilities(o.logits / by, multilabel) for o, by in zip(outputs, TEMPERATURES, strict=True)], axis=0
    )
    logits = np.log(mean) - (np.log1p(-mean) if multilabel else 0)
    expected = Outputs(logits.astype(np.float32), np.concatenate([one.features for one in outputs], 1))
    return Ensemble(members, TEMPERATURES, multilabel).eval(), images, expected


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.parametrize("multilabel", [False, True])
def test_outputs_are_those_of_the_mean(multilabel: bool, tmp_path: Path) -> None:
    network, images, expected = made(tmp_path, multilabel)
    for name in FLOAT32:
        write_format(name, network, PREPROCESSING, tmp_path, multilabel=multilabel)
        check(open_format(name, tmp_path, PREPROCESSING, trusted=True)(images), expected)


@pytest.mark.parametrize("name", ["onnx-int8", "openvino-int8"])
def test_8_bits_come_near(name: str, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="pip install nncf")
    network, images, expected = made(tmp_path, False)
    pixels = np.stack([prepare_pixels(image, PREPROCESSING) for image in images])
    write_format(name, network, PREPROCESSING, tmp_path, multilabel=False, calibration_pixels=pixels)
    found = open_format(name, tmp_path, PREPROCESSING)(images).logits
    difference = np.abs(found - expected.logits).max() / np.abs(expected.logits).max()
    assert 1e-4 < difference < 0.4


def test_of_a_lite_and_a_b0_8_bits_hold_the_weights_alone(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="pip install nncf")
    images = decoded(tmp_path)
    members = [as_trained(f"{name}@w=0.25,d=0.25", "linear", images, PREPROCESSING) for name in ("lite0", "b0")]
    network = Ensemble(members, TEMPERATURES, False).eval()
    assert parts_in_8_bits(network) == "weights"
    assert [parts_in_8_bits(member) for member in members] == ["weights and activations", "weights"]
    assert parts_in_8_bits(Ensemble(members[:1], (1.0,), False)) == "weights and activations"
    expected = TorchNetwork(network, PREPROCESSING)(images)
    pixels = np.stack([prepare_pixels(image, PREPROCESSING) for image in images])
    names = ("onnx-int8", "openvino-int8")
    for name in names:
        write_format(name, network, PREPROCESSING, tmp_path, multilabel=False, calibration_pixels=pixels)
        logits = open_format(name, tmp_path, PREPROCESSING)(images).logits
        assert 1e-5 < np.abs(logits - expected.logits).max() / np.abs(expected.logits).max() < 0.1
    written = {path.name: path.read_bytes() for name in names for path in map(tmp_path.joinpath, FORMATS[name].files)}
    assert not any(kind in content for content in written.values() for kind in (b"QuantizeLinear", b"FakeQuantize"))
