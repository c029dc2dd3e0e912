"""Start a run from another run, whose folder stands where a file of weights or a backbone may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transfer.config.command_line import load_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, MissingData
from transfer.files import expanded
from transfer.networks.registry import get_backbone
from transfer.networks.user_code import is_import_path
from transfer.run_files import BEST, CONFIG
from transfer.runs.checkpoint import datamodule_state
from transfer.weights.files import read_checkpoint
from transfer.weights.start import resolve_start


def start_from_run(config: FinetuneConfig) -> FinetuneConfig:
    """Return the configuration with a run in `weights` or `init_from` replaced by its best checkpoint and family.

    Raises:
        MissingData: the run has no best checkpoint.
        BadValue: it has another backbone, or is one of two things to start from.
    """
    for argument, given in (("init_from", config.init_from), ("weights", config.weights)):
        if given is None or not (run_dir := expanded(given)).is_dir():
            continue
        if None not in (config.init_from, config.weights):
            raise BadValue(
                f"`init_from`={config.init_from} with `weights`={config.weights}: one is a run, which brings its"
                " weights: leave out the other"
            )
        saved = load_config(run_dir / CONFIG)
        if not _is_same(saved.backbone, config.backbone):
            raise BadValue(
                f"`{argument}`={given}: a run of {saved.backbone}, not of {config.backbone}: use"
                f" `backbone`={saved.backbone}"
            )
        if not (run_dir / BEST).is_file():
            raise MissingData(f"`{argument}`={given}: the run has no {BEST} yet")
        row = resolve_start(**saved.start_options()).row
        family = config.pretrained if isinstance(config.pretrained, str) else row.family if row else "tensorflow"
        return replace(config, init_from=None, weights=str(run_dir / BEST), pretrained=family)
    return config


def _is_same(one: str, other: str) -> bool:
    if is_import_path(one) or is_import_path(other):
        return one == other  # nothing is imported to compare it
    return get_backbone(one) == get_backbone(other)


def adopt_head(config: FinetuneConfig) -> tuple[FinetuneConfig, list[str]]:
    """Return the configuration with the linear kind of head that the run in `init_head` has, and a line if it changed.

    Raises:
        UserError: `init_head` is not a run.
    """
    if config.init_head is None or config.head != "linear":
        return config, []
    if load_config(expanded(config.init_head) / CONFIG).head != "stages":
        return config, []
    return replace(config, head="stages"), ["head stages: that of init_head"]


def head_source(config: FinetuneConfig, class_names: Sequence[str]) -> str | None:
    """Return the run whose head to start from, or None.

    It is `init_head`, or else the run whose checkpoint `weights` is, if its kind of head and its classes are the same.
    """
    if config.weights is None or config.init_head is not None:
        return config.init_head
    path = expanded(config.weights)
    if path.name != BEST or not (path.parent / CONFIG).is_file():
        return None
    same_head = load_config(path.parent / CONFIG).head == config.head
    same_classes = list(datamodule_state(read_checkpoint(path), path)["class_names"]) == list(class_names)
    return str(path.parent) if same_head and same_classes else None
