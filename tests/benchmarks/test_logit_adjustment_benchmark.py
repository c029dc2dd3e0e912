"""The benchmark of logit adjustment: what it does to a rare class that overlaps a common one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.logit_adjustment import fit_balanced, try_draw
from transfer.probe.features import Features
from transfer.probe.logistic import LogisticRegression


def test_it_finds_more_of_a_rare_class_at_the_cost_of_the_common_one() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [540, 60])
    x = rng.normal(size=(600, 2)).astype(np.float32)
    x[:, 0] += 1.5 * labels
    found = try_draw(Features(torch.from_numpy(x), torch.from_numpy(labels)), 2, 200, 0)
    assert found["none"]["top1"] > 0.9
    with_noise = np.concatenate([x, rng.normal(size=(600, 60)).astype(np.float32)], axis=1)
    assert try_draw(Features(torch.from_numpy(with_noise), torch.from_numpy(labels)), 2, 200, 0) == found
    for way in ("balanced", "adjusted"):
        assert found[way]["top1"] < 0.9
        # The common class loses less than the rare one gains; both are worth half.
        assert found[way]["mean_per_class"] > found["none"]["mean_per_class"] + 0.1


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_weighted_way_takes_each_image_as_often_as_its_class_is_rare(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), [60, 20, 30][:num_classes])
    x, y = torch.from_numpy(rng.normal(size=(len(labels), 3)) + 0.7 * labels[:, None]), torch.from_numpy(labels)
    found = fit_balanced(Features(x, y), 2.0, 0.5)
    often = np.repeat(np.arange(len(labels)), np.array([1, 3, 2])[labels])
    weight = len(labels) / (60 * num_classes)  # of an image of the largest class
    (expected,) = LogisticRegression(x[often], y[often], num_classes).path([2.0 / weight])
    torch.testing.assert_close(
        (0.5 * found.logits(x)).log_softmax(1), expected.logits(x).log_softmax(1), atol=1e-3, rtol=1e-3
    )
