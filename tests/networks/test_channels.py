"""Images whose channels are not the network's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from transfer.errors import BadValue
from transfer.networks.channels import channels_explained
from transfer.training.module import TransferModule


@pytest.mark.parametrize(
    ("takes", "shape", "given"),
    [(1, (2, 3, 32, 32), 3), (3, (2, 1, 32, 32), 1), (3, (2, 32, 32, 3), 32), (3, (2, 4, 32, 32), 4)],
)
def test_other_channels_are_told_with_both_numbers(takes: int, shape: tuple[int, ...], given: int) -> None:
    module = TransferModule(backbone="b0@d=0.3,w=0.25", num_classes=3, pretrained=False, in_channels=takes)
    with pytest.raises(BadValue) as error:
        module(torch.zeros(shape))
    text = str(error.value)
    assert f"takes images of {takes} channel" in text and f"given shape {shape}" in text
    assert f"`in_channels`={given}" in text and "\n" not in text


def test_a_mismatch_inside_the_network_is_a_bug_and_stays() -> None:
    images = torch.zeros(2, 3, 8, 8)
    broken = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 6, 1))
    with pytest.raises(RuntimeError, match="to have 5 channels, but got 4"), channels_explained(images):
        broken(images)
