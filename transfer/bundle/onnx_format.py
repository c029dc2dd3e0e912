"""The formats `onnx` and `onnx-int8`: preprocessing, network and probabilities in one graph for ONNX Runtime.

Input `images`, uint8 RGB (N, H, W, 3) of any size. Outputs `logits` (N, K), `features` (N, F), `probabilities` (N, K),
and of the most probable classes `top_probabilities` and `top_classes` (N, min(5, K)).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transfer.bundle.formats import FormatRow, Outputs
from transfer.errors import DamagedFile
from transfer.images.decode import Pixels
from transfer.inference.packages import last_words, load_package, onnx_session

IMAGES, OUTPUTS = "images", ("logits", "features", "probabilities", "top_probabilities", "top_classes")


class ONNXModel:
    """A file in one of these formats, opened by ONNX Runtime.

    Args:
        row: the format.
        folder: the bundle's folder.

    Raises:
        MissingData: ONNX Runtime is not installed.
        DamagedFile: the file is missing, or no network that `write_onnx` wrote.
    """

    def __init__(self, row: FormatRow, folder: Path) -> None:
        ort, path = load_package(f"`format`={row.name}", row.package, row.extra), folder / row.files[0]
        try:
            self._session = onnx_session(ort, str(path))
        except Exception as error:  # ONNX Runtime's errors have no class in common
            raise DamagedFile(f"{path}: ONNX Runtime cannot open it: {last_words(error)}") from None
        inputs = [(value.name, value.type) for value in self._session.get_inputs()]
        shapes = {value.name: value.shape for value in self._session.get_outputs()}
        if inputs != [(IMAGES, "tensor(uint8)")] or tuple(shapes) != OUTPUTS:
            raise DamagedFile(
                f"{path}: it takes {', '.join(name for name, _ in inputs)} and returns {', '.join(shapes)}, where"
                f" {IMAGES} in uint8 and {', '.join(OUTPUTS)} are expected"
            )
        self._empty = [np.empty((0, shapes[name][1]), np.float32) for name in OUTPUTS[:2]]

    def __call__(self, images: Sequence[Pixels]) -> Outputs:
        found = [self._session.run(OUTPUTS[:2], {IMAGES: np.ascontiguousarray(image[None])}) for image in images]
        return Outputs(*(np.concatenate(parts) for parts in zip(self._empty, *found, strict=True)))
