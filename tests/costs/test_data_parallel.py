"""The step of several devices: bytes by hand, PyTorch's own buckets, and timelines that can be drawn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.distributed
from torch import nn

from transfer.costs.data_parallel import (
    BUCKET,
    FIRST_BUCKET,
    Cluster,
    Gradient,
    Timeline,
    batch_norm_channels,
    batch_norm_seconds,
    fill_buckets,
    simulate_backward,
    simulate_step,
)
from transfer.costs.links import Link
from transfer.weights.build import build_classifier

FAST, SLOW = Link(100.0, 0.5, ""), Link(10.0, 2.0, "")


def test_a_ring_sends_twice_the_gradients_but_for_its_own_share() -> None:
    assert Cluster(2, 1, FAST, SLOW).sent_bytes(1000) == (1000, 0)
    assert Cluster(8, 1, FAST, SLOW).sent_bytes(1000) == (1750, 0)
    assert Cluster(8, 4, FAST, SLOW).sent_bytes(1000) == (1750, 1500)
    assert Cluster(1, 1, FAST, SLOW).sent_bytes(1000) == (0, 0)


def test_an_all_reduce_takes_its_bytes_and_its_messages() -> None:
    assert Cluster(8, 1, FAST, SLOW).all_reduce_seconds(1000) == 1750 / 100 + 14 * 0.5
    assert Cluster(1, 4, FAST, SLOW).all_reduce_seconds(1000) == 1500 / 10 + 6 * 2
    assert Cluster(8, 4, FAST, SLOW).all_reduce_seconds(1000) == 17.5 + 7 + 150 + 12
    assert Cluster(2, 1, FAST, SLOW).broadcast_seconds(1000) == 10.5
    assert Cluster(1, 1, FAST, SLOW).broadcast_seconds(1000) == Cluster(1, 1, FAST, SLOW).all_reduce_seconds(1000) == 0
    # Each of two machines gets both devices' 100 bytes of the other one.
    assert Cluster(2, 2, FAST, SLOW).gather_seconds(100) == 1 + 0.5 + 20 + 2


@pytest.mark.parametrize("name", ["lite0", "resnet50", "b0"])
def test_the_buckets_are_pytorch_s_own(name: str) -> None:
    with torch.device("meta"):
        parameters = list(build_classifier(name, 1000).parameters())[::-1]
    stand_ins = [torch.empty(1).expand(parameter.shape) for parameter in parameters]
    own, _ = torch.distributed._compute_bucket_assignment_by_size(stand_ins, [FIRST_BUCKET, BUCKET])
    expected = [sum(4 * parameters[index].numel() for index in bucket) for bucket in own]
    buckets = fill_buckets(Gradient(4 * parameter.numel(), float(index)) for index, parameter in enumerate(parameters))
    assert [bucket.size for bucket in buckets] == expected
    assert [bucket.ready for bucket in buckets] == [max(bucket) for bucket in own]
    assert torch.distributed._DEFAULT_FIRST_BUCKET_BYTES == FIRST_BUCKET


def test_no_gradients_fill_no_bucket() -> None:
    assert fill_buckets([]) == []


@pytest.mark.parametrize(
    ("ready", "seconds", "share", "expected"),
    [
        ([10], 4, 0, 14),  # after the backward pass: all of it is exposed
        ([2], 4, 0, 10),  # beside it: nothing is
        ([8], 4, 0, 12),  # the second half is
        ([2, 3], 4, 0, 10),  # one after the other: 2 to 6 to 10
        ([2, 3, 10], 4, 0, 14),
        ([0, 0, 0], 5, 0, 15),  # the connection is the bottleneck
        ([2], 4, 1, 14),  # the processor does nothing else meanwhile
        ([2], 4, 0.5, 12),
        ([8], 4, 0.5, 12),  # 2 more seconds are computed in the 4 until 12
        ([2, 7], 4, 0.5, 14),  # 4 computed at 6, 7 at 9, 9 at 13, 10 at 14
        ([], 4, 0, 10),
    ],
)
def test_a_timeline_by_hand(ready: Sequence[float], seconds: float, share: float, expected: float) -> None:
    buckets = [Gradient(1, moment) for moment in ready]
    assert simulate_backward(10, buckets, lambda size: seconds * size, share) == pytest.approx(expected)


def test_a_step_is_exposed_by_what_does_not_fit_beside_it() -> None:
    timeline = Timeline(5, 10, 1, (Gradient(FIRST_BUCKET, 4), Gradient(100, 7), Gradient(200, 10)))
    step = simulate_step(timeline, lambda size: size / 100, broadcast=2)
    # The first bucket begins after 4 of 10 seconds and takes 10485.76; then come the other 300 bytes.
    assert step.communication == pytest.approx(2 + 10485.76 + 3)
    assert step.exposed == pytest.approx(2 + 4 + 10485.76 + 3 - 10)
    assert step.seconds == pytest.approx(16 + step.exposed) and step.efficiency == pytest.approx(16 / step.seconds)
    assert simulate_step(timeline, lambda size: 0.0).efficiency == 1


def test_accumulated_batches_send_the_last_one_s_gradients() -> None:
    timeline = Timeline(5, 10, 1, (Gradient(100, 10),))
    assert timeline.accumulated(3) == replace(timeline, forward=2 * 15 + 5)
    assert timeline.accumulated(1) == timeline
    assert timeline.scaled(2) == Timeline(10, 20, 2, (Gradient(100, 20),)) and timeline.scaled(2).step == 32


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_efficiency_is_a_share_and_falls_with_the_devices(share: float) -> None:
    draw = random.Random(0)
    for _ in range(50):
        moments = sorted(draw.uniform(0, 1) for _ in range(20))
        gradients = tuple(Gradient(draw.randrange(1, 2**24), moment) for moment in moments)
        timeline = Timeline(draw.uniform(0, 1), moments[-1], draw.uniform(0, 0.1), gradients)
        link = Link(10 ** draw.uniform(8, 12), 1e-5, "")
        found = [
            simulate_step(timeline, Cluster(devices, 2, link, link).all_reduce_seconds, share=share).efficiency
            for devices in (1, 2, 8)
        ]
        assert 1 >= found[0] >= found[1] >= found[2] > 0


def test_batch_norm_gathers_three_numbers_and_adds_up_two() -> None:
    network = nn.Sequential(nn.Conv2d(3, 10, 1), nn.BatchNorm2d(10), nn.Conv2d(10, 20, 1), nn.BatchNorm2d(20))
    assert batch_norm_channels(network) == [10, 20]
    cluster = Cluster(2, 1, FAST, SLOW)
    gathered, added = 4 * (2 * 10 + 1 + 2 * 20 + 1), 4 * 2 * 30
    assert batch_norm_seconds([10, 20], cluster) == pytest.approx((gathered + added) / 100 + 2 * (0.5 + 2 * 0.5))
    assert batch_norm_seconds([10], Cluster(1, 1, FAST, SLOW)) == 0
