"""What `--protocol` and `--recipe auto` choose, applied to a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfer.config.command_line import apply_choices, flatten
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue

if TYPE_CHECKING:
    from datamodules.base import TransferDataModule


def choose_by_rule(
    config: FinetuneConfig, given: frozenset[str], data: TransferDataModule, num_processes: int
) -> tuple[FinetuneConfig, list[str]]:
    """The configuration with what the rules of `--recipe auto` choose, and a line for each choice.

    Args:
        given: dotted fields that the user set.

    Raises:
        UserError: the choices do not go with what the user set.
    """
    from transfer.config.auto import choose_recipe
    from transfer.networks.registry import get_backbone
    from transfer.weights.build import preprocessing_for, select_start

    variant = get_backbone(config.backbone)
    row = select_start(variant, config.pretrained, config.init_from)
    choices = choose_recipe(
        num_images=data.split_sizes["train"],
        num_classes=data.num_classes,
        short_side=data.median_short_side(),
        resolution=preprocessing_for(variant, row).image_size,
        dropout_rate=variant.dropout_rate,
        batch_size=config.data.batch_size * config.trainer.accumulate_grad_batches * num_processes,
    )
    config, applied = apply_choices(config, {choice.field: choice.value for choice in choices}, given)
    return config, [str(c) if c.field in applied else f"{c.field}: as you set it" for c in choices]


def choose_by_protocol(
    config: FinetuneConfig, given: frozenset[str], data: TransferDataModule, num_processes: int
) -> tuple[FinetuneConfig, list[str]]:
    """The configuration with the settings of its protocol, and a line for each that is not the default.

    Args:
        given: dotted fields that the user set.

    Raises:
        UserError: the user set a part of what belongs together, or what does not go with the protocol.
    """
    from transfer.config.protocols import get_protocol, protocol_settings

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
        num_images=sum(size for name, size in data.split_sizes.items() if name != "test"),
        devices=num_processes,
        max_batch_per_device=config.data.batch_size,
    )
    before = flatten(config.to_dict())
    config, applied = apply_choices(config, settings, given)
    at_once, accumulated = settings["data.batch_size"], settings["trainer.accumulate_grad_batches"]
    found, wanted = config.data.batch_size * config.trainer.accumulate_grad_batches, at_once * accumulated
    if found != wanted and not given >= {"data.batch_size", "trainer.accumulate_grad_batches"}:
        raise BadValue(
            f"`protocol`={protocol.name}: a step would see {found * num_processes} images, not its"
            f" {wanted * num_processes}: use `data.batch_size`={at_once}, or set `trainer.accumulate_grad_batches` too"
        )
    lines = [f"protocol {protocol.name}: {protocol.source}"]
    lines += [f"{name} {value}" for name, value in applied.items() if value != before[name]]
    lines += [f"{name}: as you set it, not {value}" for name, value in settings.items() if name not in applied]
    if protocol.middle and not chosen_by_user:
        lines.append(f"{' and '.join(protocol.middle)}: the middle of a grid of {len(protocol.grid)} trials")
    return config, lines
