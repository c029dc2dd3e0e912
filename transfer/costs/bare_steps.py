"""The bare training step and forward pass that are measured: a network, a batch of noise, no data and no trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from transfer.costs.live_bytes import Precision
from transfer.errors import BadValue, is_short_of_memory

Batch = tuple[Tensor, Tensor]
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def random_batch(image_size: int, batch_size: int, device: torch.device, channels: int = 3) -> Batch:
    """Return noise in channels_last, and labels of the first class, which every network has."""
    images = torch.empty(
        batch_size, channels, image_size, image_size, device=device, memory_format=torch.channels_last
    ).normal_()
    return images, torch.zeros(batch_size, dtype=torch.long, device=device)


def training_step(
    network: nn.Module,
    device: torch.device,
    *,
    precision: Precision | None = None,
    memory_format: torch.memory_format = torch.channels_last,
    compiled: bool = False,
) -> Callable[[Batch], None]:
    """Move a network to the device, and return its step: cross entropy and SGD with Nesterov momentum.

    Args:
        network: the network, whose parameters the step changes.
        device: the device to move it to.
        precision: precision of the step; None takes `bf16-mixed` on a GPU, `32-true` elsewhere.
        memory_format: layout of its tensors.
        compiled: whether to compile it.
    """
    network = placed(network, device, memory_format).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    if compiled:
        network.compile()
    bf16 = device.type == "cuda" if precision is None else precision == "bf16-mixed"

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = torch.nn.functional.cross_entropy(network(batch[0]), batch[1])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def forward_pass(
    network: nn.Module, device: torch.device, *, precision: Precision = "32-true"
) -> Callable[[Tensor], None]:
    """Move a network to the device, in channels_last and evaluation mode, and return what runs it on images."""
    network = placed(network, device, torch.channels_last).eval()

    @torch.inference_mode()
    def forward(images: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            network(images)

    return forward


def placed(network: AnyModule, device: torch.device, memory_format: torch.memory_format) -> AnyModule:
    """Return the network on the device, in this memory layout."""
    return network.to(device, memory_format=memory_format)  # type: ignore[call-overload]  # missing in its types


def choose_device(name: str | None) -> torch.device:
    """Return the device of that name; None stands for a GPU where there is one, else the processor.

    Raises:
        UserError: there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BadValue("`device`=cuda: PyTorch finds no GPU here (allowed: cpu)")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def enough_memory(batch_size: int, image_size: int) -> Iterator[None]:
    """Turn the errors by which PyTorch says that memory is short into one that says what to lower.

    Args:
        batch_size: number of images that are computed at a time.
        image_size: side of the images, in pixels.

    Raises:
        UserError: memory is short.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_short_of_memory(error):
            raise
        raise BadValue(
            f"too little memory for {batch_size} images of {image_size} px: give a smaller `batch_size` or `image_size`"
        ) from None


def synchronize(device: torch.device) -> None:
    """Wait for the device to finish its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
