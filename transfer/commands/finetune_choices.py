"""What a run looks up and chooses before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from transfer.config.choices import choose_by_protocol, choose_by_rule, settle_method, settle_recipe, share_batch
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, UserError

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from datamodules.dataset.sheet import Sheet
    from transfer.weights.start import Start

T = TypeVar("T")


def check_names(config: FinetuneConfig) -> tuple[FinetuneConfig, Start, Sheet]:
    """Look up all names before anything is loaded.

    Returns:
        The configuration with the names that we use, what the network starts from, at its own image size, and the
        dataset's sheet.

    Raises:
        UserError: names are unknown; all are listed.
    """
    from datamodules import get_sheet
    from transfer.config.protocols import get_protocol
    from transfer.networks.heads import get_head
    from transfer.runs.run_start import start_from_run
    from transfer.tracking.registry import check_installed
    from transfer.weights.start import resolve_start

    problems: list[str] = []

    def found(look_up: Callable[[], T]) -> T | None:
        try:
            return look_up()
        except UserError as error:
            problems.append(str(error))
            return None

    config = found(lambda: start_from_run(config)) or config
    start = found(lambda: resolve_start(**config.start_options()))
    sheet = found(lambda: get_sheet(config.dataset))
    found(lambda: get_head(config.head))
    found(lambda: check_installed(config.logger))
    found(lambda: config.protocol and get_protocol(config.protocol))
    if start is None or sheet is None or problems:
        raise BadValue("\n".join(problems))
    return replace(config, backbone=start.variant.name), start, sheet


def choose(
    config: FinetuneConfig, given: frozenset[str], start: Start, dataset: Dataset, num_processes: int
) -> tuple[FinetuneConfig, list[str]]:
    """Return the configuration with what its protocol, recipe and method choose and its batch divided, and the reasons.

    Args:
        config: configuration as the user set it.
        given: dotted fields that the user set; they stay unchanged.
        start: what the network starts from, at its own image size.
        dataset: the loaded dataset.
        num_processes: number of processes that train together.

    Raises:
        UserError: the choices conflict with what the user set.
    """
    from transfer.runs.run_start import adopt_head

    config, lines = adopt_head(config)
    if config.protocol is not None:
        known = sum(size for name, size in dataset.split_sizes.items() if name != "test")
        trained = dataset.split_sizes["train"]
        config, chosen = choose_by_protocol(config, given, num_images=known, epoch_images=trained)
        lines += chosen
    config, shares = share_batch(config, given, num_processes)
    lines += shares
    num_images, has_weights = dataset.split_sizes["train"], start.row is not None
    config, remarks = settle_recipe(config, given, num_images=num_images, has_weights=has_weights)
    config, reasons = settle_method(
        config, given, num_images=num_images, has_weights=has_weights, num_processes=num_processes
    )
    config, chosen = choose_by_rule(
        config,
        given,
        num_images=num_images,
        num_classes=dataset.num_classes,
        short_side=dataset.median_short_side() if config.recipe == "auto" else 0,
        resolution=start.preprocessing.image_size,
        dropout_rate=start.variant.dropout_rate,
        num_processes=num_processes,
    )
    lines += [*remarks, *reasons, *chosen]
    return config, lines
