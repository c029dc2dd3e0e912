"""The benchmark of formats: what it refuses, and what it takes the time of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import formats
from transfer.bundle.formats import Outputs
from transfer.errors import UserError


def test_photos_without_a_validation_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder validation"):
        formats.benchmark_formats(tmp_path, "lite0", 32, 1)


def test_times_are_per_image_of_a_batch_after_one_that_warms_up() -> None:
    sizes = []

    def model(images: list[np.ndarray]) -> Outputs:
        sizes.append(len(images))
        return Outputs(np.zeros((0, 2), np.float32), np.zeros((0, 3), np.float32))

    assert 0 <= formats.milliseconds(model, [np.zeros((1, 1, 3), np.uint8)] * 9, 4, rounds=3) < 1000
    assert sizes == [4] * 4
