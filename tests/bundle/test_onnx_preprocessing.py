"""The graph's pixels are those of `prepare_pixels`, which Pillow resizes, to the bit."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from transfer.images.decode import Pixels
from transfer.images.prepare import prepare_pixels
from transfer.preprocessing import HALF, IMAGENET, Preprocessing

onnx = pytest.importorskip("onnx", reason="pip install onnx onnxruntime")
ort = pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
from transfer.bundle.onnx_preprocessing import preprocessing_model  # noqa: E402

BICUBIC = Preprocessing(224, 0.875, "bicubic", *IMAGENET)


class Prepared:
    """The graph alone, run by ONNX Runtime."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        model = preprocessing_model(preprocessing)
        onnx.checker.check_model(model, full_check=True)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Pixels) -> NDArray[np.uint8]:
        return self.session.run(None, {"images": images})[0]


def check(prepared: Prepared, preprocessing: Preprocessing, height: int, width: int, number: int = 1) -> None:
    rng = np.random.default_rng(height * width)
    steps = 255 if height % 2 else 1  # black and white overshoot
    images = rng.integers(0, 256 // steps + steps // 255, (number, height, width, 3), dtype=np.uint8) * steps
    expected = np.stack([prepare_pixels(image, preprocessing) for image in images])
    found = prepared(images)
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.array_equal(found, expected), (height, width, np.abs(found.astype(int) - expected).max())


SHAPES = [
    *((533, 400), (400, 533), (711, 400), (400, 711), (801, 400), (256, 256), (256, 300), (300, 256), (224, 224)),
    *((1, 1), (3, 7), (1, 9), (9, 1), (2100, 1000), (2100, 1100), (1100, 2100), (180, 91), (91, 180), (257, 1025)),
]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["short_side", "squash"])
def test_photos_and_odd_shapes(interpolation: str, resize: str) -> None:
    preprocessing = replace(BICUBIC, interpolation=interpolation, resize=resize)
    prepared = Prepared(preprocessing)
    for shape in SHAPES:
        check(prepared, preprocessing, *shape)
    check(prepared, preprocessing, 300, 401, number=3)


@pytest.mark.parametrize("seed", range(8))
def test_any_shape_size_and_crop(seed: int) -> None:
    draw = random.Random(seed)
    mean, std = HALF
    for _ in range(3):
        preprocessing = Preprocessing(
            draw.choice((32, 33, 47, 64)),
            draw.uniform(0.3, 1),
            draw.choice(("bicubic", "bilinear")),
            *((mean, std) if draw.random() < 0.5 else (mean[:1], std[:1])),
            resize=draw.choice(("short_side", "squash")),
        )
        prepared = Prepared(preprocessing)
        for _ in range(8):
            height, width = (round(math.exp(draw.uniform(0, 6))) for _ in "hw")
            if max(height / width, width / height) < 40:
                check(prepared, preprocessing, height, width)
