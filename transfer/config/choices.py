"""Apply the settings that `--protocol` and `--recipe auto` choose to a configuration."""

from __future__ import annotations

from transfer.config.auto import choose_recipe
from transfer.config.command_line import apply_choices
from transfer.config.parsing import flatten
from transfer.config.protocols import get_protocol, protocol_settings
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue


def choose_by_rule(
    config: FinetuneConfig,
    given: frozenset[str],
    *,
    num_images: int,
    num_classes: int,
    short_side: int,
    resolution: int,
    dropout_rate: float,
    num_processes: int,
) -> tuple[FinetuneConfig, list[str]]:
    """Return the configuration with the choices of `--recipe auto`, and a line of text for each choice.

    Args:
        config: configuration as the user set it.
        given: dotted fields that the user set; they stay unchanged.
        num_images: number of images in the train split.
        num_classes: number of classes of the dataset.
        short_side: median of the training images' short sides, in pixels.
        resolution: the network's own image size, in pixels.
        dropout_rate: the network's published dropout rate, in [0, 1).
        num_processes: number of processes that train together.

    Raises:
        UserError: the choices conflict with what the user set.
    """
    choices = choose_recipe(
        num_images=num_images,
        num_classes=num_classes,
        short_side=short_side,
        resolution=resolution,
        dropout_rate=dropout_rate,
        batch_size=config.data.batch_size * config.trainer.accumulate_grad_batches * num_processes,
    )
    config, applied = apply_choices(config, {choice.field: choice.value for choice in choices}, given)
    return config, [str(c) if c.field in applied else f"{c.field}: as you set it" for c in choices]


def choose_by_protocol(
    config: FinetuneConfig, given: frozenset[str], *, num_images: int, num_processes: int
) -> tuple[FinetuneConfig, list[str]]:
    """Return the configuration with the settings of its protocol, and a line of text for each non-default setting.

    Args:
        config: configuration as the user set it, with a protocol.
        given: dotted fields that the user set; they stay unchanged.
        num_images: number of images in train and val together.
        num_processes: number of processes that train together.

    Raises:
        UserError: the user set only some of the fields that the protocol chooses together, or a value that conflicts
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
        devices=num_processes,
        max_batch_per_device=config.data.batch_size,
    )
    before = flatten(config.to_dict())
    config, applied = apply_choices(config, settings, given)
    at_once, accumulated = settings["data.batch_size"], settings["trainer.accumulate_grad_batches"]
    found, wanted = config.data.batch_size * config.trainer.accumulate_grad_batches, at_once * accumulated
    if found != wanted and not given >= {"data.batch_size", "trainer.accumulate_grad_batches"}:
        raise BadValue(
            f"`protocol`={protocol.name}: a step would see {found * num_processes} images, not the protocol's"
            f" {wanted * num_processes}: use `data.batch_size`={at_once}, or set `trainer.accumulate_grad_batches` too"
        )
    lines = [f"protocol {protocol.name}: {protocol.source}"]
    lines += [f"{name} {value}" for name, value in applied.items() if value != before[name]]
    lines += [f"{name}: as you set it, not {value}" for name, value in settings.items() if name not in applied]
    if protocol.middle and not chosen_by_user:
        lines.append(f"{' and '.join(protocol.middle)}: the middle of a grid of {len(protocol.grid)} trials")
    return config, lines
