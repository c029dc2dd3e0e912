"""The formats `openvino` and `openvino-int8`: OpenVINO's IR of the network, which takes prepared pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.bundle.formats import FormatRow, Outputs
from transfer.errors import DamagedFile
from transfer.images.decode import Pixels
from transfer.images.prepare import prepare_pixels
from transfer.inference.packages import CHUNK, last_words, load_package, openvino_settings, signal_stack_kept
from transfer.preprocessing import Preprocessing

OUTPUTS = ("logits", "features")


class OpenVINOModel:
    """Files in one of these formats, opened by OpenVINO, which computes in float32 what is not in 8 bits.

    Args:
        row: the format.
        folder: the bundle's folder.
        preprocessing: how images are prepared.

    Raises:
        MissingData: OpenVINO is not installed.
        DamagedFile: a file is missing, or no network that `write_openvino` wrote.
    """

    def __init__(self, row: FormatRow, folder: Path, preprocessing: Preprocessing) -> None:
        ov, path = load_package(f"`format`={row.name}", row.package, row.extra), folder / row.files[0]
        settings, self._preprocessing = openvino_settings("f32"), preprocessing
        try:
            with signal_stack_kept():
                compiled = ov.Core().compile_model(ov.Core().read_model(path), "CPU", settings)
        except RuntimeError as error:
            raise DamagedFile(f"{path}: OpenVINO cannot open it: {last_words(error)}") from None
        size, channels = preprocessing.image_size, len(preprocessing.mean)
        inputs = [
            f"{value.any_name} {value.element_type.to_string()}{value.partial_shape}" for value in compiled.inputs
        ]
        outputs = [value.any_name for value in compiled.outputs]
        if inputs != [f"pixels u8[?,{size},{size},{channels}]"] or outputs != list(OUTPUTS):
            raise DamagedFile(
                f"{path}: it takes {', '.join(inputs)} and returns {', '.join(outputs)}, where pixels"
                f" u8[?,{size},{size},{channels}] and {', '.join(OUTPUTS)} are expected"
            )
        self._widths = [value.partial_shape[1].get_length() for value in compiled.outputs]
        self._compiled = compiled
        self._queue = ov.AsyncInferQueue(compiled, settings["NUM_STREAMS"])

    def __call__(self, images: Sequence[Pixels]) -> Outputs:
        outputs = [np.empty((len(images), width), np.float32) for width in self._widths]

        def keep(request: Any, start: int) -> None:
            for index, target in enumerate(outputs):
                target[start : start + CHUNK] = request.get_output_tensor(index).data

        if 0 < len(images) <= CHUNK:  # several threads may do this at the same time
            request = self._compiled.create_infer_request()
            request.infer([self._prepare(images)])
            keep(request, 0)
            return Outputs(*outputs)
        self._queue.set_callback(keep)
        for start in range(0, len(images), CHUNK):
            self._queue.start_async([self._prepare(images[start : start + CHUNK])], start)
        self._queue.wait_all()
        return Outputs(*outputs)

    def _prepare(self, images: Sequence[Pixels]) -> NDArray[np.uint8]:
        return np.stack([prepare_pixels(image, self._preprocessing) for image in images])
