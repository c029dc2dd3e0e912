"""A box of a resized image is what Pillow makes of the whole image, to the bit."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from PIL import Image

from transfer.images.resizing import Resize

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


def check(height: int, width: int, resize: Resize, side: int, corner: tuple[int, int] | None = None) -> None:
    rng = np.random.default_rng(height * width)
    pixels = rng.integers(0, 2 if height % 2 else 256, (height, width, 3), dtype=np.uint8) * (255 if height % 2 else 1)
    full_height, full_width = resize.shape(height, width)
    left, top = corner or (round((full_width - side) / 2), round((full_height - side) / 2))
    expected = Image.fromarray(pixels).resize((full_width, full_height), resize.resample)
    found = resize.cut(pixels, (left, top, left + side, top + side))
    assert found.flags.c_contiguous
    assert np.array_equal(found, np.asarray(expected)[top : top + side, left : left + side]), (height, width, resize)


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("resample", [BICUBIC, BILINEAR])
@pytest.mark.parametrize(
    "shape",
    [
        *((533, 400), (400, 533), (711, 400), (400, 711), (801, 400), (256, 256), (256, 300), (300, 256)),
        *((1, 1), (3, 7), (1, 90), (90, 1), (2100, 1000), (2100, 1100), (1100, 2100), (180, 91), (257, 1025)),
    ],
)
def test_the_centre_of_photos_and_of_odd_shapes(shape: tuple[int, int], resample: int, squash: bool) -> None:
    for size, side in ((256, 224), (224, 224), (260, 224), (72, 65)):
        if max(Resize(size, resample, squash).shape(*shape)) < 4000:
            check(*shape, Resize(size, resample, squash), side)


@pytest.mark.parametrize("seed", range(8))
def test_any_box_of_any_shape(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(25):
        height, width = (round(math.exp(draw.uniform(0, 6.3))) for _ in "hw")
        side = draw.choice((8, 32, 33, 64))
        resize = Resize(round(side / draw.uniform(0.3, 1)), draw.choice((BICUBIC, BILINEAR)), draw.random() < 0.5)
        full_height, full_width = resize.shape(height, width)
        if full_height * full_width < 10**6:
            corner = draw.randint(0, full_width - side), draw.randint(0, full_height - side)
            check(height, width, resize, side, corner)
