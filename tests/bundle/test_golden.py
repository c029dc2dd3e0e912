"""Golden inputs are of as many classes as there are, and noise is the same everywhere."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from transfer.bundle.golden import NUM_INPUTS, choose_inputs, noise_files


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ([0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [0, 3, 1, 4, 2, 5, 6, 7]),  # in turns, as long as a class has images
        ([1, 0], [1, 0]),
        (list(range(20))[::-1], [19, 17, 14, 11, 9, 6, 3, 0]),  # classes 0, 2, 5, ... 19
        ([3, 3, 7], [0, 2, 1]),
    ],
)
def test_inputs_are_of_as_many_classes_as_possible(labels: list[int], chosen: list[int]) -> None:
    assert choose_inputs(np.array(labels)) == chosen


def test_of_several_labels_the_first_counts() -> None:
    labels = np.array([[0, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1]], np.float32)
    assert choose_inputs(labels) == [1, 0, 3, 2]


def test_noise_is_seeded_and_of_several_sizes() -> None:
    files = noise_files()
    assert files == noise_files() and len(files) == NUM_INPUTS
    sizes = [Image.open(io.BytesIO(file)).size for file in files]
    assert any(w > 2 * h for w, h in sizes) and any(h > 2 * w for w, h in sizes) and len(set(sizes)) == NUM_INPUTS
