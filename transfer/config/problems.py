"""Checks of a configuration: values out of range, and values that conflict."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from transfer.config.drawing import drawing_problems
from transfer.config.probe_schema import ProbeConfig
from transfer.config.schema import FREEZE, FinetuneConfig, TrainerConfig
from transfer.errors import BadValue, nearest
from transfer.inference.names import CHOICES
from transfer.preprocessing import SMALLEST_IMAGE

# A field, its value, the values it may have in words, and whether this one is.
Range = tuple[str, Any, str, Callable[[Any], object]]
_LARGEST = 2**31  # counts are 32-bit integers in places
_SMALLEST_FLOAT, _LARGEST_FLOAT = 1e-30, 1e30  # of a float32 that is multiplied once more
_BATCHES = "a number of batches from 1, or a share above 0.0 to 1.0"
_TIME = re.compile(r"(?=.*[1-9])\d+:\d\d:\d\d:\d\d")
_PROFILERS = ("simple", "advanced", "pytorch")


def find_problems(config: FinetuneConfig) -> list[str]:
    """Return a message for each value that is out of range or conflicts with another, with its field in backticks."""
    if nulls := find_nulls(config):
        return nulls
    ranges = list(_range_problems(config))
    wrong = {problem.partition("=")[0] for problem in ranges}
    return [*ranges, *(p for p in _combination_problems(config) if p.partition("=")[0] not in wrong)]


def find_nulls(config: Any, prefix: str = "") -> list[str]:
    """Return a message for each field of a schema, or of a group in it, that is None and must not be."""
    problems: list[str] = []
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if is_dataclass(value):
            problems += find_nulls(value, f"{prefix}{name}.")
        elif value is None and type(None) not in get_args(kind):
            default = next(field.default for field in fields(config) if field.name == name)
            problems.append(f"`{prefix}{name}`=null (leave it out for its default, {default})")
    return problems


def find_probe_problems(config: FinetuneConfig, own: ProbeConfig) -> list[str]:
    """Return a message for each setting that a linear probe does not support, with its field in backticks."""
    data, problems = config.data, find_problems(config)
    if own.engine not in CHOICES:
        hint = nearest(own.engine, CHOICES)
        problems.append(f"`engine`={own.engine!r}{hint} (allowed: {', '.join(CHOICES)})")
    if not 1 <= own.views <= 1000:
        problems.append(f"`views`={own.views} (allowed: 1 to 1000)")
    if data.multilabel:
        problems.append("`data.multilabel`=True: a probe supports one label per image only")
    if data.train_on != "train":
        problems.append(f"`data.train_on`={data.train_on}: a probe chooses on val and then trains on both anyway")
    if data.stream and config.on_bad_image == "skip":
        problems.append("`data.stream`=True with `on_bad_image`=skip: bad images must be known in advance (use error)")
    return problems


def _range_problems(config: FinetuneConfig) -> Iterator[str]:
    data, loss, optim = config.data, config.loss, config.optim
    checks: tuple[Range, ...] = (
        ("seed", config.seed, "0 to 4294967295", lambda v: 0 <= v < 2**32),
        ("folds", config.folds, "at least 2", lambda v: 2 <= v < _LARGEST),
        ("global_batch_size", config.global_batch_size, "at least 1", _is_count),
        ("image_size", config.image_size, f"{SMALLEST_IMAGE} to 8192", lambda v: SMALLEST_IMAGE <= v <= 8192),
        ("progressive", config.progressive, f"{SMALLEST_IMAGE} to 8191", lambda v: SMALLEST_IMAGE <= v < 8192),
        ("dropout", config.dropout, "0 to below 1", _is_share),
        ("stochastic_depth_prob", config.stochastic_depth_prob, "0 to below 1", _is_share),
        ("ema_half_life", config.ema_half_life, "above 0, below 1", lambda v: 1e-6 <= v < 1),
        ("early_stopping", config.early_stopping, "at least 1", _is_count),
        ("data.batch_size", data.batch_size, "at least 1", _is_count),
        ("data.num_workers", data.num_workers, "0 to 1024", lambda v: 0 <= v <= 1024),
        ("data.val_fraction", data.val_fraction, "above 0, below 0.5", lambda v: 1e-6 <= v < 0.5),
        ("data.test_fraction", data.test_fraction, "above 0, below 0.5", lambda v: 1e-6 <= v < 0.5),
        ("data.per_class", data.per_class, "at least 1", _is_count),
        ("data.fraction", data.fraction, "above 0, at most 1", lambda v: 1e-9 <= v <= 1),
        ("data.draw", data.draw, "0 to 4294967295", lambda v: 0 <= v < 2**32),
        ("data.color_jitter", data.color_jitter, "0 to 1", lambda v: 0 <= v <= 1),
        ("data.bit_depth", data.bit_depth, "1 to 32", lambda v: 1 <= v <= 32),
        ("data.max_pixels", data.max_pixels, "at least 1", lambda v: 1 <= v < 2**63),
        ("data.min_crop_area", data.min_crop_area, "above 0, at most 1", lambda v: 1e-6 <= v <= 1),
        ("loss.label_smoothing", loss.label_smoothing, "0 to below 1", _is_share),
        ("loss.mixup_alpha", loss.mixup_alpha, "0, or 0.001 to 1000", _is_alpha),
        ("loss.cutmix_alpha", loss.cutmix_alpha, "0, or 0.001 to 1000", _is_alpha),
        ("distill.weight", config.distill.weight, "above 0, at most 1", lambda v: 1e-6 <= v <= 1),
        ("distill.temperature", config.distill.temperature, "0.1 to 100", lambda v: 0.1 <= v <= 100),
        ("optim.lr", optim.lr, "above 0", _is_positive),
        ("optim.momentum", optim.momentum, "0 to below 1", _is_share),
        ("optim.weight_decay", optim.weight_decay, "at least 0", _is_not_negative),
        ("optim.backbone_lr_factor", optim.backbone_lr_factor, "at least 0", _is_not_negative),
        ("optim.layer_decay", optim.layer_decay, "above 0, at most 1", lambda v: 1e-6 <= v <= 1),
        ("optim.warmup_epochs", optim.warmup_epochs, "at least 0", _is_not_negative),
        ("optim.sam_rho", optim.sam_rho, "above 0", _is_positive),
        *_trainer_ranges(config.trainer),
    )
    for name, value, allowed, ok in checks:
        if value is not None and not ok(value):
            yield f"`{name}`={value} (allowed: {allowed})"


def _trainer_ranges(trainer: TrainerConfig) -> tuple[Range, ...]:
    return (
        ("trainer.max_steps", trainer.max_steps, "at least 1, or -1 for no limit", lambda v: v == -1 or _is_count(v)),
        ("trainer.devices", trainer.devices, "auto, a number from 1, -1 for all, or a list of indices", _is_devices),
        ("trainer.num_nodes", trainer.num_nodes, "at least 1", _is_count),
        ("trainer.min_epochs", trainer.min_epochs, "at least 1", _is_count),
        ("trainer.min_steps", trainer.min_steps, "at least 1", _is_count),
        ("trainer.val_check_interval", trainer.val_check_interval, _BATCHES, _is_batches),
        ("trainer.check_val_every_n_epoch", trainer.check_val_every_n_epoch, "at least 1", _is_count),
        ("trainer.limit_train_batches", trainer.limit_train_batches, _BATCHES, _is_batches),
        ("trainer.limit_val_batches", trainer.limit_val_batches, _BATCHES, _is_batches),
        ("trainer.limit_test_batches", trainer.limit_test_batches, f"0, {_BATCHES}", _is_no_or_some_batches),
        ("trainer.overfit_batches", trainer.overfit_batches, f"0, {_BATCHES}", _is_no_or_some_batches),
        ("trainer.num_sanity_val_steps", trainer.num_sanity_val_steps, "at least 0, or -1 for all", lambda v: v >= -1),
        ("trainer.log_every_n_steps", trainer.log_every_n_steps, "at least 0", lambda v: 0 <= v < _LARGEST),
        ("trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, "at least 1", _is_count),
        ("trainer.gradient_clip_val", trainer.gradient_clip_val, "above 0", _is_positive),
        ("trainer.max_time", trainer.max_time, "DD:HH:MM:SS above 0, such as 00:12:00:00", _TIME.fullmatch),
        ("trainer.profiler", trainer.profiler, ", ".join(_PROFILERS), _PROFILERS.__contains__),
    )


def _combination_problems(config: FinetuneConfig) -> Iterator[str]:
    trainer = config.trainer
    if not _is_count(trainer.max_epochs) and not (trainer.max_epochs == -1 and trainer.max_steps > 0):
        yield f"`trainer.max_epochs`={trainer.max_epochs} (allowed: at least 1, or -1 with `trainer.max_steps`)"
    if trainer.strategy.startswith(("fsdp", "deepspeed")):
        yield f"`trainer.strategy`={trainer.strategy}: checkpoints would be sharded (allowed: auto, ddp, ddp_...)"
    if config.data.batch_size == 1 and config.bn != "frozen":
        yield "`data.batch_size`=1: BatchNorm needs at least 2 (use `trainer.accumulate_grad_batches`, or `bn`=frozen)"
    yield from drawing_problems(config)
    if config.data.train_on == "trainval":
        if config.monitor is not None:
            yield "`monitor` with `data.train_on`=trainval: there is no validation to choose from"
        if config.early_stopping is not None:
            yield "`early_stopping` with `data.train_on`=trainval: there is no validation to watch"
        if config.bn == "recompute":
            yield "`bn`=recompute with `data.train_on`=trainval: it runs before validation; there is none (use adapt)"
    if config.pretrained is False and config.init_from is None and config.weights is not None:
        yield f"`weights`={config.weights} with `pretrained`=False: say how the file was trained"
    yield from _loss_problems(config)
    if config.data.multilabel and config.data.metric is not None:
        yield f"`data.metric`={config.data.metric} with `data.multilabel`=True, which is judged by map (leave it out)"
    if config.dataset == "folder" and config.data_root is None:
        yield "`dataset`=folder needs `data_root`: class folders, a CSV or parquet file, or a save_to_disk folder"
    if config.dataset == "digits" and config.data_root is not None:
        root = f"`data_root`={config.data_root}"
        yield f"{root} with `dataset`=digits: its images come with scikit-learn (use `dataset`=folder)"
    if config.protocol is not None and config.recipe == "auto":
        yield f"`protocol`={config.protocol} with `recipe`=auto: both choose the settings; leave one out"
    if config.method == "lpft":
        if config.protocol is not None:
            yield f"`method`=lpft with `protocol`={config.protocol}: both choose the settings; leave one out"
        yield from (f"`method`=lpft with {obstacle}" for obstacle in lpft_obstacles(config))
    for name in ("log_model", "log_photos"):
        if getattr(config, name) and config.logger not in ("wandb", "mlflow"):
            yield f"`{name}`=True with `logger`={config.logger}: unused (allowed: wandb, mlflow)"
    if config.teacher is None:
        for field in fields(config.distill):
            if (value := getattr(config.distill, field.name)) != field.default:
                yield f"`distill.{field.name}`={value} without `teacher`: unused"
    if not FREEZE.fullmatch(config.freeze):
        yield f"`freeze`={config.freeze!r} (allowed: none, backbone, 'until-epoch N')"
    elif 0 < trainer.max_epochs <= (config.frozen_epochs() or 0):
        yield (
            f"`freeze`={config.freeze!r} with `trainer.max_epochs`={trainer.max_epochs}: the backbone would never"
            " learn; use `freeze`=backbone"
        )
    if config.progressive is not None:
        if config.image_size is not None and config.progressive >= config.image_size:
            yield f"`progressive`={config.progressive} (allowed: below `image_size`={config.image_size})"
        if trainer.overfit_batches:
            yield f"`progressive`={config.progressive} with `trainer.overfit_batches`: choose one"
    if config.optim.sam_rho is not None:
        yield from _sam_problems(config)
    if 0 < trainer.max_epochs <= config.optim.warmup_epochs:
        yield f"`optim.warmup_epochs`={config.optim.warmup_epochs}: the run ends after {trainer.max_epochs} epochs"


def _loss_problems(config: FinetuneConfig) -> Iterator[str]:
    loss = config.loss
    if config.data.multilabel and loss.name != "bce":
        yield f"`data.multilabel`=True with `loss.name`={loss.name}: several labels need `loss.name`=bce"
    if loss.logit_adjustment and loss.name != "cross_entropy":
        yield (
            f"`loss.logit_adjustment`=True with `loss.name`={loss.name}: it adjusts the logits of a softmax (use"
            " cross_entropy, or leave it out)"
        )
    if loss.logit_adjustment and loss.class_weights != "none":
        yield (
            f"`loss.logit_adjustment`=True with `loss.class_weights`={loss.class_weights}: both correct for the"
            " classes' sizes; leave one out"
        )


def lpft_obstacles(config: FinetuneConfig) -> Iterator[str]:
    """Yield what the method `lpft` cannot do, as far as the configuration says it."""
    if config.head not in ("linear", "stages"):
        yield f"`head`={config.head}: it starts from a linear probe's (allowed: linear, stages)"
    if config.pretrained is False and config.init_from is None:
        yield "`pretrained`=False: a probe reads the features of trained weights"
    if config.data.multilabel:
        yield "`data.multilabel`=True: a probe supports one label per image only"
    if config.init_head is None and config.data.train_on == "trainval":
        yield "`data.train_on`=trainval: val chooses the penalty of the probe (or pass `init_head`)"
    if config.init_head is None and config.data.stream:
        yield "`data.stream`=True: run a probe, and pass its folder as `init_head`"


def _sam_problems(config: FinetuneConfig) -> Iterator[str]:
    trainer = config.trainer
    if trainer.accumulate_grad_batches > 1:
        yield (
            f"`optim.sam_rho` with `trainer.accumulate_grad_batches`={trainer.accumulate_grad_batches}: both passes"
            " need the whole batch (use 1, a larger `data.batch_size`, more `trainer.devices`, or"
            " `grad_checkpointing`=True)"
        )
    if trainer.precision in ("16", "16-mixed"):
        yield (
            f"`optim.sam_rho` with `trainer.precision`={trainer.precision}: its scaled gradients are not the"
            " ones that SAM moves along (use bf16-mixed or 32-true)"
        )
    if trainer.gradient_clip_val is not None and trainer.gradient_clip_algorithm == "value":
        yield (
            "`optim.sam_rho` with `trainer.gradient_clip_algorithm`=value: clipping by value changes the direction of"
            " the gradient that SAM moves along (use norm, which limits only the length of the step)"
        )


def check_shares(config: FinetuneConfig, sizes: Mapping[str, int], num_processes: int) -> None:
    """Refuse each share of a split's batches that is less than one batch, before anything is trained.

    Args:
        config: the configuration.
        sizes: number of images of each split.
        num_processes: number of processes among which they are divided.

    Raises:
        BadValue: there is such a share.
    """
    problems: list[str] = []
    for field, split in (
        *(("limit_train_batches", "train"), ("overfit_batches", "train"), ("limit_val_batches", "val")),
        ("limit_test_batches", "test"),
    ):
        share = getattr(config.trainer, field)
        images = sizes.get(split, 0) // num_processes
        whole = images // config.data.batch_size if split == "train" else -(-images // config.data.batch_size)
        batches = max(1, whole)  # a smaller train split is one batch
        if isinstance(share, float) and share > 0 and split in sizes and int(share * batches) == 0:
            problems.append(
                f"`trainer.{field}`={share}: less than one of {batches} batches of {split} (allowed: at least"
                f" {math.ceil(1000 / batches) / 1000}, or a number of batches)"
            )
    if problems:
        raise BadValue("\n".join(problems))


def _is_share(value: float) -> bool:
    return 0 <= value < 1


def _is_not_negative(value: float) -> bool:
    return value == 0 or _is_positive(value)


def _is_positive(value: float) -> bool:
    return _SMALLEST_FLOAT <= value <= _LARGEST_FLOAT


def _is_alpha(value: float) -> bool:
    return value == 0 or 1e-3 <= value <= 1e3  # beyond, draws from Beta are not finite


def _is_devices(value: int | str | list[int]) -> bool:
    return value == -1 or _is_count(value) if isinstance(value, int) else bool(value)


def _is_count(value: int) -> bool:
    return 1 <= value < _LARGEST


def _is_batches(value: float) -> bool:
    return _is_count(value) if isinstance(value, int) else 1e-9 <= value <= 1


def _is_no_or_some_batches(value: float) -> bool:
    return value == 0 or _is_batches(value)
