"""Write the formats `openvino` and `openvino-int8`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.bundle.eight_bits import parts_in_8_bits
from transfer.bundle.formats import FormatRow
from transfer.bundle.network import PixelNetwork
from transfer.bundle.openvino_format import OUTPUTS
from transfer.inference.openvino_engine import compress_weights, convert, quantize
from transfer.inference.packages import CHUNK, load_package, refusal


def write_openvino(
    row: FormatRow, network: PixelNetwork, folder: Path, calibration_pixels: NDArray[np.uint8] | None
) -> None:
    """Write the files of a format; see `transfer.bundle.formats.write_format`.

    Raises:
        MissingData: OpenVINO, or NNCF for 8 bits, is not installed.
        BadValue: OpenVINO cannot convert the network.
    """
    purpose = f"`format`={row.name}"
    ov = load_package(purpose, row.package, row.extra)
    try:
        model = convert(network, network.examples)
        model.reshape([-1, *network.examples.shape[1:]])
    except (RuntimeError, ov.frontend.OpConversionFailure, ov.frontend.GeneralFailure) as error:
        raise refusal(purpose, network.classifier, error) from error
    model.inputs[0].set_names({"pixels"})
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.set_names({name})
    _name_by_position(model)
    if row.name == "openvino-int8":
        nncf = load_package(purpose, "nncf", row.extra)
        if parts_in_8_bits(network) == "weights":
            model = compress_weights(nncf, model)
        else:
            assert calibration_pixels is not None
            model = quantize(nncf, model, np.array_split(calibration_pixels, -(-len(calibration_pixels) // CHUNK)))
        _name_by_position(model)
    ov.save_model(model, folder / row.files[0], compress_to_fp16=False)


def _name_by_position(model: Any) -> None:
    """Replace the names that OpenVINO numbered, on through a whole process."""
    model.set_friendly_name("bundle")
    for position, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{position}")
