"""The benchmark of class weights: what weights do to a rare class that overlaps a common one."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.class_weights import try_draw
from transfer.probe.features import Features


def test_weights_find_more_of_a_rare_class_at_the_cost_of_the_common_one() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [540, 60])
    x = rng.normal(size=(600, 2)).astype(np.float32)
    x[:, 0] += 1.5 * labels
    found = try_draw(Features(torch.from_numpy(x), torch.from_numpy(labels)), 200, 0)
    assert found["none"]["top1"] > 0.9
    for way in ("balanced", "weighted_choice", "adjusted"):
        assert found[way]["top1"] < 0.9
        # The common class loses less than the rare one gains; both are worth half.
        assert found[way]["mean_per_class"] > found["none"]["mean_per_class"] + 0.1
