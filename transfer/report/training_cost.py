"""What a run's training took to compute, in multiply-adds: counted from its settings, not measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer.config.parsing import flatten
from transfer.config.schema import FREEZE
from transfer.costs.counts import count_macs
from transfer.errors import UserError
from transfer.networks.registry import get_variant
from transfer.runs.results import Results

# A backward pass takes twice a forward pass: one product for the inputs' gradients, one for the weights'. It is the
# factor of 3 for both in Amodei & Hernandez 2018 (OpenAI, "AI and Compute", appendix).
_BACKWARD = 2


def describe_training(results: Results) -> str | None:
    """Return the multiply-adds of a run's steps in words; None where they cannot be told.

    These are those of its network in training steps: what a teacher, a first probe or validation took comes on top.
    """
    images = (results.steps or 0) * (results.global_batch_size or 0)
    classes = next((len(facts.class_counts) for facts in results.splits.values() if facts.class_counts), 0)
    sizes = results.train_image_sizes or [results.image_size]
    if not images or not classes or not all(sizes):
        return None
    try:
        variant = get_variant(results.backbone)  # a user's own network is not imported
        forward = sum(count_macs(variant, size, classes) for size in sizes) / len(sizes)
        passes = passes_per_image(flatten(results.config), results.steps_per_epoch, results.steps or 0)
    except UserError:
        return None
    total = forward * passes * images
    return (
        f"about {_in_words(total)}: {images:,} images, {_in_words(forward)} forward, times {passes:.3g} with backward"
    )


def passes_per_image(config: Mapping[str, Any], steps_per_epoch: int | None, steps: int) -> float:
    """Return how many forward passes a training image costs, its backward pass among them.

    Args:
        config: dotted fields of the run.
        steps_per_epoch: optimizer steps of an epoch.
        steps: optimizer steps of the run.
    """
    passes = 2 if config.get("optim.sam_rho") else 1
    trained = passes * (1 + _BACKWARD + bool(config.get("grad_checkpointing")))  # which computes the forward pass again
    found = FREEZE.fullmatch(str(config.get("freeze", "none")))
    if found is None or found[0] == "none":
        return trained
    frozen = steps if found[1] is None else min(int(found[1]) * (steps_per_epoch or 0), steps)
    return (passes * frozen + trained * (steps - frozen)) / steps


def _in_words(value: float) -> str:
    unit, size = next((one for one in (("P", 1e15), ("T", 1e12), ("G", 1e9)) if value >= one[1]), ("M", 1e6))
    return f"{value / size:.3g} {unit}"
