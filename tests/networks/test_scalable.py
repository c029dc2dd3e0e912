"""What can be scaled, built with a classifier: a backbone by name, and a function of the user's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from transfer.costs.scalable import get_scalable
from transfer.errors import UserError
from transfer.networks.scaling import Scale


def small(depth: float, width: float, resolution: float) -> nn.Module:
    network = nn.Sequential(*[nn.Conv2d(3, 3, 3) for _ in range(round(2 * depth))], nn.Conv2d(3, round(8 * width), 1))
    network.num_features = round(8 * width)
    return network


def test_a_backbone_is_built_as_a_classifier_at_any_scale() -> None:
    baseline = get_scalable("b0", num_classes=7)
    factors = Scale(1.2, 1.1, 1.15)
    assert (baseline.name, baseline.image_size, baseline.size(factors)) == ("b0", 224, 258)
    with torch.device("meta"):
        network = baseline.build(factors)
    assert network.backbone.variant.name == "b0@d=1.2,w=1.1,r=1.15"
    assert network.num_classes == 7 and network.head.dropout.p == 0.2


def test_a_network_of_other_blocks_is_a_baseline_too() -> None:
    blocks = "r1_k3_e1-r1_k5_e2-r1_k3_e2_se0.25-r1_k3_e1-r1_k3_e2-r1_k3_e2-r1_k3_e1"
    baseline = get_scalable(f"b0@blocks={blocks}")
    with torch.device("meta"):
        network = baseline.build(Scale(depth=2.0))
    assert network.backbone.variant.name == f"b0@blocks={blocks},d=2"
    assert [len(stage) for stage in network.backbone.stages] == [2] * 7


def test_a_function_is_called_with_depth_width_and_resolution() -> None:
    baseline = get_scalable(small, num_classes=5, image_size=32)
    network = baseline.build(Scale(2.0, 1.5, 1.25))
    assert (baseline.name, baseline.size(Scale(resolution=1.25))) == ("small", 40)
    assert len(network.backbone.network) == 5
    assert network.backbone(torch.randn(1, 3, 40, 40)).shape == (1, 12, 32, 32)
    assert network(torch.randn(1, 3, 40, 40)).shape == (1, 5)


def test_a_baseline_must_not_be_scaled_already() -> None:
    with pytest.raises(UserError, match=r"baseline b0@phi=1\.5 is scaled already"):
        get_scalable("b0@phi=1.5")
