"""The benchmark of class weights: what weights do to a rare class that overlaps a common one."""

from __future__ import annotations

import numpy as np

from benchmarks.class_weights import try_draw


def test_weights_find_more_of_a_rare_class_at_the_cost_of_the_common_one() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [540, 60])
    x = rng.normal(size=(600, 2)).astype(np.float32)
    x[:, 0] += 1.5 * labels
    found = try_draw(x, labels, 200, 0)
    plain, balanced = found["plain"], found["balanced"]
    assert plain["top1"] > 0.9 > balanced["top1"]
    # The common class loses less than the rare one gains; both are worth half.
    assert balanced["mean_per_class"] > plain["mean_per_class"] + 0.1
