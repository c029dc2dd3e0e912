"""Apply the settings that `--protocol`, `--recipe` and `--method` choose to a configuration, and divide its batch."""

from __future__ import annotations

import math
from dataclasses import replace

from transfer.config.auto import FEW_IMAGES, LPFT_FROM, Rule, choose_lpft, choose_recipe, choose_size, usual_method
from transfer.config.command_line import apply_choices
from transfer.config.parsing import flatten
from transfer.config.probe_schema import is_probe_field
from transfer.config.problems import lpft_obstacles
from transfer.config.protocols import get_protocol, protocol_settings
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue

_SHARES = {"data.batch_size", "trainer.accumulate_grad_batches"}  # what a global batch is divided into


def settled_fields(config: FinetuneConfig, given: frozenset[str]) -> frozenset[str]:
    """Return the dotted fields that neither a protocol, nor a recipe, nor the number of processes changes any more.

    Args:
        config: configuration as the user set it.
        given: dotted fields that the user set.
    """
    chooses = config.protocol is not None or config.recipe != "none" or config.method == "lpft"
    return (given if chooses else frozenset(flatten(config.to_dict()))) - _SHARES


def share_batch(config: FinetuneConfig, given: frozenset[str], num_processes: int) -> tuple[FinetuneConfig, list[str]]:
    """Return the configuration with its global batch divided among the processes, and a line that says how.

    Without a global batch, the configuration is returned as it is.

    Args:
        config: the configuration; `data.batch_size` is the most that a process takes at once.
        given: dotted fields that the user set.
        num_processes: number of processes that train together.

    Raises:
        BadValue: the batch cannot be divided, or conflicts with another setting.
    """
    total, accumulate = config.global_batch_size, "trainer.accumulate_grad_batches"
    if total is None:
        return config, []
    per_process, accumulated = divide_batch(total, num_processes, config.data.batch_size)
    if accumulate in given and config.trainer.accumulate_grad_batches != accumulated:
        raise BadValue(
            f"`{accumulate}`={config.trainer.accumulate_grad_batches} with `global_batch_size`={total}, which is"
            f" {num_processes} x {per_process} images x {accumulated}: leave one of them out"
        )
    shares = {"data.batch_size": per_process, accumulate: accumulated}
    config, _ = apply_choices(config, shares, frozenset())
    processes = "1 process" if num_processes == 1 else f"{num_processes} processes"
    return config, [f"a step has {total} images: {processes} x {per_process} at once x {accumulated}"]


def divide_batch(batch_size: int, num_processes: int, most: int) -> tuple[int, int]:
    """Return the images per process at once and the batches to accumulate, whose product is the process's share.

    Args:
        batch_size: images per optimizer step, over all processes.
        num_processes: number of processes.
        most: largest number of images per process at once; as many of these are taken as divide the share.

    Raises:
        BadValue: the batch cannot be divided equally among the processes.
    """
    if batch_size % num_processes:
        allowed = ", ".join(str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)
        raise BadValue(
            f"`global_batch_size`={batch_size}: {num_processes} processes cannot share it equally (allowed: {allowed}"
            " processes, or another batch)"
        )
    share = batch_size // num_processes
    per_process = max(n for n in range(1, min(most, share) + 1) if share % n == 0)
    return per_process, share // per_process


def settle_recipe(
    config: FinetuneConfig, given: frozenset[str], *, num_images: int, has_weights: bool
) -> tuple[FinetuneConfig, list[str]]:
    """Return the configuration with its recipe, and a line where that depends on what the user set.

    Where it is open, it is `auto` for few images and trained weights, unless the user chose an optimizer or its rate,
    which would not go with the rest.

    Args:
        config: configuration as the user set it; of a published dataset or with a protocol the recipe is not open.
        given: dotted fields that the user set.
        num_images: number of images in the train split.
        has_weights: whether the network starts from trained weights.
    """
    if config.recipe is not None:
        return config, []
    if num_images > FEW_IMAGES or not has_weights:
        return replace(config, recipe="none"), []
    if chosen := sorted(given & {"optim.name", "optim.lr"}):
        return replace(config, recipe="none"), [f"recipe none, which few images have as auto: you set {chosen[0]}"]
    return replace(config, recipe="auto"), []


def settle_method(
    config: FinetuneConfig, given: frozenset[str], *, num_images: int, has_weights: bool, num_processes: int
) -> tuple[FinetuneConfig, list[str]]:
    """Return the configuration with its method, and under the recipe `auto` a line that says why.

    Args:
        config: the configuration, with its recipe.
        given: dotted fields that the user set.
        num_images: number of images in the train split.
        has_weights: whether the network starts from trained weights.
        num_processes: number of processes that train together.

    Raises:
        BadValue: the user set `lpft`, and the probe's head cannot be fitted, or `probe`, and what trains a network.
    """
    of_training = sorted(name for name in given - {"method", "recipe"} if not is_probe_field(name))
    if config.method == "probe" and of_training:
        raise BadValue(f"`method`=probe trains no network: leave out `{of_training[0]}`")
    several = num_processes > 1 and config.init_head is None
    if config.method == "lpft" and several:
        raise BadValue(
            f"`method`=lpft on {num_processes} processes: a probe is fitted by one: run efficientnet-transfer"
            " probe, and pass its folder as `init_head`"
        )
    if config.method is not None:
        return config, []
    if config.recipe != "auto":
        return replace(config, method="full"), []
    trainer = config.trainer
    usual = usual_method(num_images)
    obstacles = [
        *([f"more than {FEW_IMAGES:,} training images"] if usual == "full" else []),
        *([] if has_weights else ["no trained weights"]),
        *([f"{num_processes} processes, without `init_head`"] if several else []),
        *([f"`freeze`={config.freeze}"] if config.freeze != "none" else []),
        *(["a part of the training images"] if trainer.limit_train_batches or trainer.overfit_batches else []),
        *lpft_obstacles(config),
    ]
    if obstacles:
        return replace(config, method="full"), ["method full: not lpft, for " + obstacles[0].replace("`", "")]
    if usual == "probe" and not of_training:
        reason = f"with fewer than {LPFT_FROM} training images no worse than fine-tuning (benchmarks/small_data.md)"
        return replace(config, method="probe"), [f"method probe: {reason}"]
    reason = f"from {LPFT_FROM} to {FEW_IMAGES:,} training images better than a probe (benchmarks/small_data.md)"
    return replace(config, method="lpft"), [f"method lpft: {reason}"]


def choose_by_rule(
    config: FinetuneConfig,
    given: frozenset[str],
    *,
    num_images: int,
    is_balanced: bool,
    num_classes: int,
    short_side: int,
    resolution: int,
    dropout_rate: float,
    num_processes: int,
) -> tuple[FinetuneConfig, list[str]]:
    """Return the configuration with the choices of its recipe and its method, and a line of text for each choice.

    Args:
        config: configuration as the user set it, with its recipe and method.
        given: dotted fields that the user set; they stay unchanged.
        num_images: number of images in the train split.
        is_balanced: whether every class counts the same, whatever its number of images.
        num_classes: number of classes of the dataset.
        short_side: median of the training images' short sides, in pixels.
        resolution: the network's own image size, in pixels.
        dropout_rate: the network's published dropout rate, in [0, 1).
        num_processes: number of processes that train together.

    Raises:
        BadValue: the choices conflict with what the user set.
    """
    choices = list[Rule]()
    if config.method == "lpft":
        is_set = "trainer.max_epochs" in given and config.trainer.max_epochs > 0
        is_plain = config.loss.name == "cross_entropy" and config.loss.class_weights == "none"
        choices = choose_lpft(num_images, config.trainer.max_epochs if is_set else None, is_balanced and is_plain)
    if config.recipe == "auto" and config.method != "full":
        choices += choose_size(short_side, resolution)
    elif config.recipe == "auto":
        choices = choose_recipe(
            num_images=num_images,
            num_classes=num_classes,
            short_side=short_side,
            resolution=resolution,
            dropout_rate=dropout_rate,
            batch_size=config.data.batch_size * config.trainer.accumulate_grad_batches * num_processes,
        )
    by_field = {choice.field: choice for choice in choices}
    config, applied = apply_choices(config, {field: choice.value for field, choice in by_field.items()}, given)
    return config, [str(c) if c.field in applied else f"{c.field}: as you set it" for c in by_field.values()]


def _given_steps(config: FinetuneConfig, given: frozenset[str], steps_per_epoch: float) -> int | None:
    """Return the length of the run that the user set, in steps; None if it is left to the protocol."""
    trainer = config.trainer
    lengths = {"trainer.max_steps": trainer.max_steps, "trainer.max_epochs": trainer.max_epochs * steps_per_epoch}
    return min((math.ceil(steps) for name, steps in lengths.items() if name in given and steps > 0), default=None)


def choose_by_protocol(
    config: FinetuneConfig, given: frozenset[str], *, num_images: int, epoch_images: int
) -> tuple[FinetuneConfig, list[str]]:
    """Return the configuration with the settings of its protocol, and a line of text for each non-default setting.

    Args:
        config: configuration as the user set it, with a protocol.
        given: dotted fields that the user set; they stay unchanged.
        num_images: number of images in train and val together.
        epoch_images: number of those that the run trains on.

    Raises:
        BadValue: the user set only some of the fields that the protocol chooses together, or a value that conflicts
            with it.
    """
    assert config.protocol is not None
    protocol = get_protocol(config.protocol)
    chosen_by_user = protocol.middle.keys() & given
    if chosen_by_user and chosen_by_user != protocol.middle.keys():
        raise BadValue(
            f"`protocol`={protocol.name} chooses {' and '.join(protocol.middle)} together from its grid: set both,"
            " or neither"
        )
    settings = protocol_settings(
        protocol,
        protocol.middle,
        dataset=config.dataset,
        backbone=config.backbone,
        num_images=num_images,
        epoch_images=epoch_images,
        steps=_given_steps(config, given, math.ceil(epoch_images / protocol.batch_size)),
    )
    before = flatten(config.to_dict())
    config, applied = apply_choices(config, settings, given)
    lines = [f"protocol {protocol.name}: {protocol.source}"]
    lines += [f"{name} {value}" for name, value in applied.items() if value != before[name]]
    lines += [f"{name}: as you set it, not {value}" for name, value in settings.items() if name not in applied]
    if protocol.middle and not chosen_by_user:
        lines.append(f"{' and '.join(protocol.middle)}: the middle of a grid of {len(protocol.grid)} trials")
    return config, lines
