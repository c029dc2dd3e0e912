"""What a network consists of and takes: parameters, multiply-adds and memory, in all and part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transfer.costs.memory import Precision, TrainingMemory, inference_memory, on_meta, part_memory, training_memory
from transfer.networks.backbone import StagedBackbone
from transfer.networks.classifier import Classifier
from transfer.networks.function import FunctionBackbone
from transfer.networks.registry import get_backbone
from transfer.weights.build import build_classifier


@dataclass(frozen=True)
class PartProfile:
    """One part of a network.

    Attributes:
        macs: multiply-adds of convolutions and matrix products for one image.
        training_bytes: bytes left for each image when it has run: its output, and what the backward pass needs.
        inference_bytes: the most bytes in use at a time for each image while it runs.
    """

    part: str
    num_parameters: int
    macs: int
    training_bytes: int
    inference_bytes: int


@dataclass(frozen=True)
class Profile:
    """A network, counted and predicted.

    Attributes:
        macs: multiply-adds of convolutions and matrix products for one image: half of the FLOPs that
            `torch.utils.flop_counter` counts.
        training: memory of a training step.
        inference_bytes: memory of inference with a batch.
    """

    image_size: int
    batch_size: int
    precision: Precision
    num_parameters: int
    macs: int
    training: TrainingMemory
    inference_bytes: int
    parts: tuple[PartProfile, ...]


def network_parts(network: nn.Module) -> dict[str, Sequence[nn.Module]]:
    """Return a network's parts in order: a backbone's stem, stages, top and the classifier; else its children."""
    if isinstance(network, Classifier):
        backbone, classifier = network.backbone, {"classifier": (network.head,)}
        if isinstance(backbone, StagedBackbone):
            stages = {f"stage {number}": (stage,) for number, stage in enumerate(backbone.stages, start=1)}
            top = {} if isinstance(backbone.top, nn.Identity) else {"top": (backbone.top,)}
            return {"stem": (backbone.stem, backbone.stem_pool), **stages, **top, **classifier}
        if isinstance(backbone, FunctionBackbone):
            return {**network_parts(backbone.network), **classifier}
    return {name: (child,) for name, child in network.named_children()}


def profile_network(
    network: nn.Module, image_size: int, batch_size: int = 1, *, precision: Precision = "32-true"
) -> Profile:
    """Count a network and predict its memory without running it; it may lie on the meta device.

    Args:
        network: gives logits (N, num_classes, ...) of images (N, 3, S, S).
        image_size: S, in pixels.
        batch_size: images of the memory of inference; the rest is for any number.

    Raises:
        UserError: the network gives something else.
    """
    parts = network_parts(network)
    module_macs = count_module_macs(network, image_size)
    names = {module: name for name, module in network.named_modules()}
    memory = part_memory(network, parts, image_size, precision=precision)
    return Profile(
        image_size=image_size,
        batch_size=batch_size,
        precision=precision,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        macs=module_macs[""],
        training=training_memory(network, image_size, precision=precision),
        inference_bytes=inference_memory(network, image_size, batch_size, precision),
        parts=tuple(
            PartProfile(
                part=name,
                num_parameters=sum(p.numel() for module in modules for p in module.parameters()),
                macs=sum(module_macs.get(names[module], 0) for module in modules),
                training_bytes=memory[name].training,
                inference_bytes=memory[name].inference,
            )
            for name, modules in parts.items()
        ),
    )


def profile_backbone(
    name: str,
    image_size: int | None = None,
    batch_size: int = 1,
    *,
    num_classes: int = 1000,
    head: str = "linear",
    precision: Precision = "32-true",
) -> Profile:
    """Return the profile of a backbone with a classifier, which is built without memory.

    Args:
        name: see `transfer.get_backbone`.
        image_size: side of the images, in pixels; None takes the backbone's own.
        batch_size: number of images.
        num_classes: number of classes.
        head: name of the head.
        precision: precision of the computation.

    Raises:
        UserError: no such backbone.
    """
    size = image_size or get_backbone(name).resolution
    with torch.device("meta"):
        network = build_classifier(name, num_classes, head=head)
    return profile_network(network, size, batch_size, precision=precision)


def count_module_macs(network: nn.Module, image_size: int) -> dict[str, int]:
    """Return the multiply-adds for one image by module name; the whole network's name is empty.

    Args and Raises: as `profile_network`.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        on_meta(network, image_size)
    root = type(network).__name__
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    modules = {name.removeprefix(f"{root}."): number // 2 for name, number in flops.items() if name != "Global"}
    return {**modules, "": counter.get_total_flops() // 2}
