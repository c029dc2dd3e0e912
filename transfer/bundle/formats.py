"""The formats of a finished network: a row each, without importing what writes or opens them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from transfer.errors import BadValue, unknown_name
from transfer.images.decode import Pixels
from transfer.inference.packages import load_package
from transfer.preprocessing import Preprocessing

if TYPE_CHECKING:
    from transfer.networks.classifier import Classifier
    from transfer.networks.ensemble import Ensemble

ANY_SIZE, PREPARED = "images of any size", "prepared pixels"


@dataclass(frozen=True)
class FormatRow:
    """A format.

    Attributes:
        name: what `--format` calls it.
        files: its files, relative to the bundle's folder.
        package: the package that opens it.
        extra: the extra of this project that installs what writes and opens it; None for torch.
        takes: what the file takes: `images of any size`, uint8 RGB (N, H, W, 3) as decoded; or `prepared pixels`, uint8
            (N, S, S, C).
        holds_code: whether opening its file can execute code in it: `open_format` does so only where it is told that
            the file is trusted. A bundle's own network in torch is built from its model.safetensors.
        by_default: whether it is written where no format is named.
    """

    name: str
    files: tuple[str, ...]
    package: str
    extra: str | None
    takes: str
    holds_code: bool = False
    by_default: bool = True


_ROWS = (
    FormatRow("onnx", ("model.onnx",), "onnxruntime", "onnxruntime", ANY_SIZE),
    FormatRow("openvino", ("openvino/model.xml", "openvino/model.bin"), "openvino", "openvino", PREPARED),
    # torch.export.load unpickles what lies in the file and evaluates expressions; torch.jit.load runs its program.
    FormatRow("torch", ("model.pt2",), "torch", None, PREPARED, holds_code=True),
    FormatRow("torchscript", ("model.ts",), "torch", None, PREPARED, holds_code=True, by_default=False),
    FormatRow("onnx-int8", ("model.int8.onnx",), "onnxruntime", "onnxruntime", ANY_SIZE),
    FormatRow(
        "openvino-int8", ("openvino/model.int8.xml", "openvino/model.int8.bin"), "openvino", "openvino", PREPARED
    ),
)
FORMATS = {row.name: row for row in _ROWS}


@dataclass(frozen=True)
class Outputs:
    """What a network computed for N images.

    Attributes:
        logits: float32 (N, K)
        features: what the head takes, pooled. float32 (N, F)
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


class Model(Protocol):
    """A format that has been opened."""

    def __call__(self, images: Sequence[Pixels]) -> Outputs:
        """Return the outputs for decoded images, uint8 RGB (H, W, 3), which may differ in size."""
        ...


def write_format(
    name: str,
    classifier: Classifier | Ensemble,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    temperature: float = 1.0,
    multilabel: bool,
    calibration_pixels: NDArray[np.uint8] | None = None,
) -> None:
    """Write a format's files into a bundle's folder, the same bytes for the same classifier.

    Args:
        name: a row of `FORMATS`.
        classifier: a classifier or several, on the CPU; it stays as it is.
        preprocessing: how its images are prepared.
        folder: where the row's files go.
        temperature: what logits are divided by before they become probabilities, where the format has these.
        multilabel: whether an image may have several classes: a sigmoid takes the softmax's place.
        calibration_pixels: prepared training images, about 300, from which 8 bits take the ranges of the activations
            where these are in 8 bits, too; see `transfer.bundle.eight_bits`.
            Shape: (M, S, S, C)

    Raises:
        UserError: there is no such format, its package is not installed or cannot convert the network, or 8 bits have
            no images.
    """
    row = _row(name)
    if name.endswith("-int8") and (calibration_pixels is None or not len(calibration_pixels)):
        raise BadValue(f"`format`={name}: `calibration_pixels` are needed, about 300 prepared training images")
    (folder / row.files[0]).parent.mkdir(parents=True, exist_ok=True)
    from transfer.bundle.network import PixelNetwork

    network = PixelNetwork(classifier, preprocessing)
    if row.package == "onnxruntime":
        load_package(f"`format`={name}", "onnx", row.extra)
        from transfer.bundle.onnx_writing import write_onnx

        write_onnx(row, network, preprocessing, folder, temperature, multilabel, calibration_pixels)
    elif row.package == "openvino":
        from transfer.bundle.openvino_writing import write_openvino

        write_openvino(row, network, folder, calibration_pixels)
    elif name == "torchscript":
        from transfer.bundle.torchscript_format import write_torchscript

        write_torchscript(row, network, folder)
    else:
        from transfer.bundle.torch_format import write_torch

        write_torch(row, network, folder)


def open_format(name: str, folder: Path, preprocessing: Preprocessing, *, trusted: bool = False) -> Model:
    """Return the network of a format, which computes on the CPU in as many threads as PyTorch would.

    Args:
        name: a row of `FORMATS`.
        folder: the bundle's folder.
        preprocessing: how images are prepared.
        trusted: whether code in the files may be executed, which a format that `holds_code` needs.

    Raises:
        UserError: there is no such format, its package is not installed, its files are missing, damaged or no network
            of this kind, or hold code and are not trusted.
    """
    row = _row(name)
    if row.package == "onnxruntime":
        from transfer.bundle.onnx_format import ONNXModel

        return ONNXModel(row, folder)
    if row.package == "openvino":
        from transfer.bundle.openvino_format import OpenVINOModel

        return OpenVINOModel(row, folder, preprocessing)
    path = folder / row.files[0]
    if row.holds_code and not trusted:
        raise BadValue(
            f"{path}: opening this file can execute code in it; open it with `trusted`=True if you know who wrote it"
            " (the same network is in model.safetensors)"
        )
    if name == "torchscript":
        from transfer.bundle.torchscript_format import open_torchscript

        return open_torchscript(path, preprocessing)
    from transfer.bundle.torch_format import open_torch

    return open_torch(path, preprocessing)


def _row(name: str) -> FormatRow:
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    return FORMATS[name]
