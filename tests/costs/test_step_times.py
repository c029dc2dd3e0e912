"""Measured timelines: which gradients they have and in what order; how long they take belongs to the machine."""

from __future__ import annotations

import torch

from transfer.costs.data_parallel import Gradient, Timeline
from transfer.costs.step_times import measure_timeline, median_timeline
from transfer.weights.build import build_classifier


def test_a_real_step_gives_the_gradients_of_all_trainable_parameters() -> None:
    network = build_classifier("lite0@w=0.25,d=0.25", 5)
    network.head.requires_grad_(False)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    timeline = measure_timeline(network, 32, 2, torch.device("cpu"), precision="32-true")
    # Autograd runs the layers from the last to the first.
    assert [gradient.size for gradient in timeline.gradients] == [4 * p.numel() for p in reversed(trained)]
    moments = [gradient.ready for gradient in timeline.gradients]
    assert moments[0] > 0 and moments == sorted(moments) and moments[-1] == timeline.backward
    assert min(timeline.forward, timeline.optimizer) > 0
    assert not any(p._post_accumulate_grad_hooks for p in trained)


def test_the_median_is_of_each_number() -> None:
    steps = [Timeline(a, 10 * a, a / 10, (Gradient(8, a), Gradient(4, 10 * a))) for a in (3.0, 1.0, 2.0)]
    assert median_timeline(steps) == steps[2]
