"""OpenVINO and ONNX Runtime compute what torch computes, for any number of images, and say nothing to anyone."""

from __future__ import annotations

import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import openvino
import pytest
import torch
from torch import Tensor, nn

from tests.inference.test_engines import with_statistics
from transfer.errors import UserError
from transfer.inference import engines
from transfer.inference.engines import build_engine, choose_engine
from transfer.inference.openvino_engine import OpenVINOEngine
from transfer.weights.build import build_backbone, build_classifier


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 32, 32).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [("openvino", "b0"), ("openvino", "v2-b0"), ("openvino", "resnet50"), ("onnxruntime", "b0")],
)
@torch.no_grad()
def test_float32_is_torchs_for_any_number_of_images(name: str, backbone: str, images: Tensor) -> None:
    network = with_statistics(build_classifier(backbone, 4, head="mlp"))
    expected = network(images)
    engine = build_engine(name, network, images[:3])
    for number in (1, 4, 6):
        found = engine(images[:number])
        torch.testing.assert_close(found, expected[:number], rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        assert found.dtype == torch.float32


def test_auto_passes_over_a_library_that_refuses_the_processor(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("Exception from src/core.cpp:1:\n  no such instruction")

    monkeypatch.setattr("openvino.Core.compile_model", refuse)
    monkeypatch.setattr(engines, "fastest_first", lambda device: ["openvino"])
    network = build_classifier("lite0@w=0.25,d=0.25", 4).eval()
    engine, record = choose_engine("auto", network, images, 10**9)
    assert engine.name == "torch" and "no such instruction" in record.refused["openvino"]


@pytest.mark.parametrize(("name", "number"), [("openvino-int8", 300), ("openvino-bf16", 64)])
@pytest.mark.filterwarnings("ignore:`engine`")  # noise has no clear answers
def test_8_bits_are_calibrated_and_compared_on_more_images(name: str, number: int) -> None:
    network = with_statistics(build_classifier("lite0@w=0.25,d=0.25", 4))
    _, record = choose_engine(name, network, torch.randn(310, 3, 32, 32), 310)
    assert record.images_compared == number


class Watched:
    """A queue of OpenVINO's that checks, before it waits for the streams, that all of their images still exist."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.pixels: list[weakref.ref[Any]] = []

    def start_async(self, inputs: list[Any], *args: Any, **options: Any) -> None:
        self.pixels.append(weakref.ref(inputs[0]))
        self.queue.start_async(inputs, *args, **options)

    def wait_all(self) -> None:
        assert [pixels() is not None for pixels in self.pixels] == [True] * 5
        self.queue.wait_all()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queue, name)


@torch.no_grad()
def test_images_outlive_the_streams_that_read_them(images: Tensor) -> None:
    engine = build_engine("openvino", with_statistics(build_classifier("lite0@w=0.25,d=0.25", 4)), images)
    assert isinstance(engine, OpenVINOEngine)
    engine._queue = Watched(engine._queue)
    assert engine(torch.randn(18, 3, 32, 32)).shape == (18, 4)  # contiguous: each stream gets a copy


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@torch.no_grad()
def test_static_padding_other_channels_and_maps(name: str, images: Tensor) -> None:
    network = with_statistics(build_backbone("b0", pretrained="transformers", load_weights=False, in_channels=1))
    expected = network(images[:, :1])
    assert expected.shape == (6, 1280, 1, 1)
    found = build_engine(name, network, images[:2, :1])(images[:, :1])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "most"), [("openvino-bf16", 0.05), ("openvino-int8", 0.2)])
@torch.no_grad()
def test_lower_precision_changes_a_little(name: str, most: float, images: Tensor) -> None:
    if name == "openvino-bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16: OpenVINO computes in float32")
    network = with_statistics(build_classifier("lite0", 4, head="cosine"))
    expected = network(images)
    engine, record = choose_engine(name, network, images, len(images))
    difference = float((engine(images) - expected).norm() / expected.norm())
    assert 1e-5 < difference < most
    assert record.images_compared == 6 and record.largest_difference == pytest.approx(
        float((engine(images) - expected).abs().max()), rel=1e-3
    )


class NoOperator(nn.Module):
    """A network whose operator no library knows."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images.mean((2, 3)))


def test_a_network_that_a_library_cannot_compute_is_refused(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openvino", "onnxruntime"):
        with pytest.raises(UserError, match=f"`engine`={name}: NoOperator cannot be"):
            build_engine(name, NoOperator(), images)
    monkeypatch.setattr(engines, "fastest_first", lambda device: ["openvino", "onnxruntime"])
    engine, record = choose_engine("auto", NoOperator(), images, 10**6)
    assert engine.name == "torch" and list(record.refused) == ["openvino", "onnxruntime"]


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("openvino", "openvino", "openvino"),
        ("openvino-int8", "nncf", "openvino"),
        ("onnxruntime", "onnx", "onnxruntime"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    name: str, package: str, extra: str, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"`engine`={name}: .*pip install 'efficientnet-transfer\[{extra}\]'"):
        build_engine(name, nn.Identity(), images)


def test_engines_of_the_cpu_refuse_a_network_elsewhere() -> None:
    with pytest.raises(UserError, match="on meta"):
        build_engine("openvino", nn.Identity(), torch.empty(1, 3, 8, 8, device="meta"))


TELEMETRY = """
import sys, torch
from torch import nn

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "os.fork"):
        open("heard", "a").write(event)

sys.addaudithook(watch)
from transfer.inference.engines import build_engine
network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
for name in ("openvino", "openvino-int8", "onnxruntime"):
    print(build_engine(name, network, torch.randn(8, 3, 16, 16))(torch.randn(2, 3, 16, 16)).shape)
"""


def test_nothing_is_reported_to_a_vendor(tmp_path: Path) -> None:
    """Importing OpenVINO alone forks a process that reports it, and leaves an id in the user's home."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", TELEMETRY], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0 and ran.stdout.count("torch.Size([2, 8])") == 3, ran.stderr
    assert list(tmp_path.iterdir()) == []
