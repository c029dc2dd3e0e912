"""Counts of parts against the construction's own arithmetic; latency's figures against a network that sleeps."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from transfer.costs.counts import count_macs, roundings
from transfer.costs.latency import limited_threads, measure_latency
from transfer.costs.memory import inference_memory, training_memory
from transfer.costs.profile import network_parts, profile_backbone, profile_network
from transfer.networks.classifier import Classifier
from transfer.networks.function import FunctionBackbone, function_variant
from transfer.networks.heads import LinearHead
from transfer.networks.registry import get_backbone
from transfer.paper import TABLE4
from transfer.weights.build import build_classifier


@pytest.mark.parametrize(
    ("name", "image_size"),
    [("b0@phi=0.5", 97), ("lite0@w=0.5,d=0.5", 64), ("v2-b0@d=0.5", 64), ("resnet50", 64), ("mobilenet-v1", 32)],
)
def test_the_parts_are_the_constructions_own(name: str, image_size: int) -> None:
    variant = get_backbone(name)
    profile = profile_backbone(name, image_size, 2, num_classes=7)
    expected = roundings(variant, image_size, num_classes=7)
    assert [(part.part, part.macs) for part in profile.parts] == [(row.part, row.macs) for row in expected]
    assert profile.macs == count_macs(variant, image_size, num_classes=7)
    network = build_classifier(name, 7)
    assert sum(part.num_parameters for part in profile.parts) == profile.num_parameters
    assert profile.num_parameters == sum(parameter.numel() for parameter in network.parameters())
    assert profile.training == training_memory(network, image_size)
    assert profile.inference_bytes == inference_memory(network, image_size, 2)
    assert (profile.image_size, profile.batch_size, profile.precision) == (image_size, 2, "32-true")
    # The widest part sets what inference needs, and what the parts leave is nearly what training needs.
    many, one_more = (inference_memory(network, image_size, batch_size) for batch_size in (10_000, 10_001))
    assert one_more - many == max(part.inference_bytes for part in profile.parts)
    kept = sum(part.training_bytes for part in profile.parts)
    assert 0.9 < kept / profile.training.per_image < 1.1


def test_a_size_of_its_own_is_the_default() -> None:
    assert profile_backbone("lite0@r=0.25").image_size == 56


def test_any_module_is_profiled_by_its_children() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5, bias=False))
    profile = profile_network(network, 8)
    rows = {part.part: (part.num_parameters, part.macs) for part in profile.parts}
    assert rows == {"0": (224, 27 * 8 * 36), "1": (0, 0), "2": (0, 0), "3": (1440, 1440)}
    assert (profile.num_parameters, profile.macs) == (1664, 27 * 8 * 36 + 1440)
    assert profile_network(nn.Conv2d(3, 4, 1), 2).parts == ()


def test_a_functions_network_has_its_children_and_a_classifier() -> None:
    def function(depth: float, width: float, resolution: float) -> nn.Module:
        network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU())
        network.num_features = 6  # type: ignore[assignment]  # no tensor, no module
        return network

    backbone = FunctionBackbone(function_variant(function, "my.function"))
    classifier = Classifier(backbone, LinearHead(6, 4, 0.0), 4)
    assert {part.part: part.macs for part in profile_network(classifier, 4).parts} == {
        **{"0": 3 * 6 * 16, "1": 0},
        "classifier": 24,
    }


class Sleeps(nn.Module):
    """Milliseconds before it gives its input's mean."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds = milliseconds

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(self.milliseconds / 1e3)
        return images


def test_latency_is_of_the_network_and_its_parts() -> None:
    network = nn.Sequential(Sleeps(3), Sleeps(20), nn.Flatten()).train()
    latency = measure_latency(network, 4, batch_size=3, runs=4, threads=2, parts=network_parts(network))
    assert 23 < latency.lower_quartile_ms <= latency.median_ms <= latency.upper_quartile_ms
    assert latency.part_ms["0"] > 3 and latency.part_ms["1"] > 20 and latency.part_ms["2"] < latency.part_ms["1"]
    assert (latency.batch_size, latency.runs) == (3, 4) and latency.device.startswith("2 threads of ")
    assert latency.images_per_second == pytest.approx(3000 / latency.median_ms)
    assert torch.get_num_threads() == 1
    single = measure_latency(network, 4, runs=1)
    assert single.median_ms == single.lower_quartile_ms == single.upper_quartile_ms and not single.part_ms
    assert single.device.startswith("1 thread of ")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_threads_come_back_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="on the way"), limited_threads(2):
        assert torch.get_num_threads() == 2
        raise RuntimeError("on the way")
    assert torch.get_num_threads() == 1


def test_the_papers_latencies_have_the_ratios_that_it_prints() -> None:
    for row in TABLE4:
        assert round(row.peer_seconds / row.seconds, 1) == row.printed_ratio
    assert replace(TABLE4[0], peer="x").peer == "x" and {row.backbone for row in TABLE4} == {"b1", "b7"}
