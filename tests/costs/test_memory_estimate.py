"""Memory of a step that is not taken: against counts by hand, and against what autograd keeps of real tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfer.costs.memory import Precision, inference_memory, largest_batch, part_memory, training_memory
from transfer.costs.profile import network_parts
from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.weights.build import build_classifier


def small() -> nn.Sequential:
    """For 8 px: a map of 8 channels, its activation, ten logits."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def test_a_small_network_is_as_counted_by_hand() -> None:
    network = small()
    parameters = 4 * (3 * 8 * 9 + 8 + 512 * 10 + 10)
    image, hidden = 4 * 3 * 64, 4 * 8 * 64
    memory = training_memory(network, 8)
    assert memory.fixed == 3 * parameters
    # In ReLU's backward pass live the image, its result, and the gradients after and before it.
    assert memory.per_image == image + 3 * hidden
    by_then = 4 * 5130 + 2 * 4  # the last layer's gradient; the loss and its gradient
    assert memory.moments[0] == (2 * parameters + by_then, memory.per_image)
    assert memory.total(1000) == 2 * parameters + by_then + 1000 * memory.per_image
    # With one image the end of the forward pass takes more: gradients of the step before, and the convolution's copy of
    # its weight beside image and map.
    assert memory.total(1) >= 3 * parameters + image + 2 * hidden
    # Without a backward pass the activation replaces the map.
    for batch_size in (1, 5):
        assert inference_memory(network, 8, batch_size) == parameters + batch_size * (image + 2 * hidden)


def test_the_network_stays_as_it_is() -> None:
    network = build_classifier("lite0", 3).eval()
    network.head.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    training_memory(network, 32)
    inference_memory(network, 32, 1)
    part_memory(network, network_parts(network), 32)
    assert network.head.training and not network.training and not network.backbone.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_the_parts_keep_is_what_autograd_keeps_of_real_tensors(precision: Precision) -> None:
    network = build_classifier("b0", 10)
    memory = part_memory(network, network_parts(network), 64, precision=precision)
    predicted = sum(part.training for part in memory.values())
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def bytes_for(batch_size: int) -> int:
        kept.clear()
        images = torch.rand(batch_size, 3, 64, 64)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"),
        ):
            network.train()(images).sum()
        return sum(t.untyped_storage().nbytes() for t in kept.values() if t.untyped_storage() is not images)

    # What is the same for all batches (weights, in bf16 their copies too) cancels out.
    assert predicted == pytest.approx((bytes_for(4) - bytes_for(2)) / 2, rel=0.03)
    assert training_memory(network, 64, precision=precision).per_image == pytest.approx(predicted, rel=0.1)


def test_bf16_keeps_about_half_and_copies_of_the_weights() -> None:
    with torch.device("meta"):
        network = build_classifier("resnet50", 1000)
    full, mixed = (training_memory(network, 64, precision=name) for name in ("32-true", "bf16-mixed"))
    assert mixed.per_image == pytest.approx(full.per_image / 2, rel=0.05)
    copies = 2 * sum(p.numel() for p in network.parameters() if p.ndim == 4)
    assert mixed.moments[0][0] - mixed.fixed == pytest.approx(copies, rel=0.02)
    assert mixed.fixed == full.fixed


def test_it_grows_with_the_pixels_and_not_with_the_mode_or_the_device() -> None:
    network = build_classifier("lite0", 10)
    with torch.device("meta"):
        elsewhere = build_classifier("lite0", 10).eval()
    memory = training_memory(network, 64)
    assert memory == training_memory(elsewhere, 64)
    assert training_memory(network, 128).per_image == pytest.approx(4 * memory.per_image, rel=0.05)
    assert memory.fixed == 12 * sum(p.numel() for p in network.parameters()) + sum(b.nbytes for b in network.buffers())


def test_frozen_parameters_have_neither_gradient_nor_momentum(tiny_classifier: Classifier) -> None:
    everything = training_memory(tiny_classifier, 32)
    tiny_classifier.freeze()
    head = sum(p.nbytes for p in tiny_classifier.head.parameters())
    held = sum(t.nbytes for t in (*tiny_classifier.parameters(), *tiny_classifier.buffers()))
    frozen = training_memory(tiny_classifier, 32)
    assert frozen.fixed == held + 2 * head < everything.fixed
    assert frozen.per_image < everything.per_image
    tiny_classifier.requires_grad_(False)
    assert training_memory(tiny_classifier, 32).fixed == held


def test_gradient_checkpointing_keeps_less() -> None:
    plain, less = (
        training_memory(build_classifier("lite0", 10, grad_checkpointing=on), 64).per_image for on in (False, True)
    )
    assert less < 0.6 * plain


def test_the_largest_batch_is_the_largest() -> None:
    memory = training_memory(small(), 8)
    for available in (memory.total(1), memory.total(2) - 1, memory.total(7), memory.total(500) + 3, 10**9):
        images = largest_batch(available, memory)
        assert images is not None and images >= 1
        assert memory.total(images) <= available < memory.total(images + 1)
    assert largest_batch(memory.total(1) - 1, memory) == 0 == largest_batch(0, memory)
    assert largest_batch(None, memory) is None


class Gives(nn.Module):
    """Whatever a function makes of pooled images; the function may make tensors of its own."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(self.conv(images))


def test_maps_of_logits_and_tensors_made_on_the_way_are_counted() -> None:
    one = training_memory(Gives(lambda maps: maps), 8).per_image
    added = training_memory(Gives(lambda maps: maps * torch.ones(8, 8)), 8).per_image
    assert added >= one >= 4 * (3 + 4) * 64


@pytest.mark.parametrize(
    ("function", "given"),
    [(lambda maps: {"logits": maps}, "dict"), (lambda maps: maps.mean(), r"\(\)"), (lambda maps: None, "NoneType")],
)
def test_what_gives_no_logits_is_refused(function: Any, given: str) -> None:
    for count in (lambda n: training_memory(n, 8), lambda n: inference_memory(n, 8, 1)):
        with pytest.raises(UserError, match=rf"the network gave {given} for \d+ images, not logits"):
            count(Gives(function))
