"""Checks of a configuration: values out of range, and values that conflict."""

from __future__ import annotations

from collections.abc import Iterator

from transfer.config.schema import FREEZE, SMALLEST_IMAGE, FinetuneConfig


def find_problems(config: FinetuneConfig) -> list[str]:
    """Return a message for each value that is out of range or conflicts with another, with its field in backticks."""
    return [*_range_problems(config), *_combination_problems(config)]


def find_probe_problems(config: FinetuneConfig) -> list[str]:
    """Return a message for each setting that a linear probe does not support, with its field in backticks."""
    data, problems = config.data, find_problems(config)
    if data.multilabel:
        problems.append("`data.multilabel`=True: a probe supports one label per image only")
    if data.train_on != "train":
        problems.append(f"`data.train_on`={data.train_on}: a probe chooses on val and then trains on both anyway")
    if data.stream and config.on_bad_image == "skip":
        problems.append("`data.stream`=True with `on_bad_image`=skip: bad images must be known in advance (use error)")
    return problems


def _range_problems(config: FinetuneConfig) -> Iterator[str]:
    data, loss, optim = config.data, config.loss, config.optim
    for name, value, allowed, ok in (
        ("global_batch_size", config.global_batch_size, "at least 1", lambda v: v >= 1),
        ("image_size", config.image_size, f"at least {SMALLEST_IMAGE}", lambda v: v >= SMALLEST_IMAGE),
        ("dropout", config.dropout, "0 to below 1", _is_share),
        ("stochastic_depth_prob", config.stochastic_depth_prob, "0 to below 1", _is_share),
        ("ema_half_life", config.ema_half_life, "above 0, below 1", lambda v: 0 < v < 1),
        ("early_stopping", config.early_stopping, "at least 1", lambda v: v >= 1),
        ("data.batch_size", data.batch_size, "at least 1", lambda v: v >= 1),
        ("data.num_workers", data.num_workers, "at least 0", lambda v: v >= 0),
        ("data.val_fraction", data.val_fraction, "above 0, below 0.5", lambda v: 0 < v < 0.5),
        ("data.test_fraction", data.test_fraction, "above 0, below 0.5", lambda v: 0 < v < 0.5),
        ("data.min_crop_area", data.min_crop_area, "above 0, at most 1", lambda v: 0 < v <= 1),
        ("loss.label_smoothing", loss.label_smoothing, "0 to below 1", _is_share),
        ("loss.mixup_alpha", loss.mixup_alpha, "at least 0", _is_not_negative),
        ("loss.cutmix_alpha", loss.cutmix_alpha, "at least 0", _is_not_negative),
        ("optim.lr", optim.lr, "above 0", lambda v: v > 0),
        ("optim.momentum", optim.momentum, "0 to below 1", _is_share),
        ("optim.weight_decay", optim.weight_decay, "at least 0", _is_not_negative),
        ("optim.backbone_lr_factor", optim.backbone_lr_factor, "at least 0", _is_not_negative),
        ("optim.layer_decay", optim.layer_decay, "above 0, at most 1", lambda v: 0 < v <= 1),
        ("optim.warmup_epochs", optim.warmup_epochs, "at least 0", _is_not_negative),
        ("optim.sam_rho", optim.sam_rho, "above 0", lambda v: v > 0),
    ):
        if value is not None and not ok(value):
            yield f"`{name}`={value} (allowed: {allowed})"


def _combination_problems(config: FinetuneConfig) -> Iterator[str]:
    trainer = config.trainer
    if trainer.max_epochs < 1 and not (trainer.max_epochs == -1 and trainer.max_steps > 0):
        yield f"`trainer.max_epochs`={trainer.max_epochs} (allowed: at least 1, or -1 with `trainer.max_steps`)"
    if trainer.limit_train_batches == 0:
        yield "`trainer.limit_train_batches`=0: nothing would be learned (use 1 or more)"
    if trainer.strategy.startswith(("fsdp", "deepspeed")):
        yield f"`trainer.strategy`={trainer.strategy}: checkpoints would be sharded (allowed: auto, ddp, ddp_...)"
    if config.data.batch_size == 1 and config.bn != "frozen":
        yield "`data.batch_size`=1: BatchNorm needs at least 2 (use `trainer.accumulate_grad_batches`, or `bn`=frozen)"
    if trainer.limit_val_batches == 0:
        yield "`trainer.limit_val_batches`=0: the best checkpoint is chosen by validation (use 1 or more)"
    if config.data.train_on == "trainval":
        if config.monitor is not None:
            yield "`monitor` with `data.train_on`=trainval: there is no validation to choose from"
        if config.early_stopping is not None:
            yield "`early_stopping` with `data.train_on`=trainval: there is no validation to watch"
        if config.bn == "recompute":
            yield "`bn`=recompute with `data.train_on`=trainval: it runs before validation; there is none (use adapt)"
    if config.pretrained is False and config.init_from is None and config.weights is not None:
        yield f"`weights`={config.weights} with `pretrained`=False: say how the file was trained"
    if config.data.multilabel and config.loss.name != "bce":
        yield f"`data.multilabel`=True with `loss.name`={config.loss.name}: several labels need `loss.name`=bce"
    if config.dataset == "folder" and config.data_root is None:
        yield "`dataset`=folder needs `data_root`: class folders, a CSV or parquet file, or a save_to_disk folder"
    if config.protocol is not None and config.recipe == "auto":
        yield f"`protocol`={config.protocol} with `recipe`=auto: both choose the settings; leave one out"
    if not FREEZE.fullmatch(config.freeze):
        yield f"`freeze`={config.freeze!r} (allowed: none, backbone, 'until-epoch N')"
    elif 0 < trainer.max_epochs <= (config.frozen_epochs() or 0):
        yield (
            f"`freeze`={config.freeze!r} with `trainer.max_epochs`={trainer.max_epochs}: the backbone would never"
            " learn; use `freeze`=backbone"
        )
    if config.optim.sam_rho is not None:
        yield from _sam_problems(config)
    if 0 < trainer.max_epochs <= config.optim.warmup_epochs:
        yield f"`optim.warmup_epochs`={config.optim.warmup_epochs}: the run ends after {trainer.max_epochs} epochs"


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


def _is_share(value: float) -> bool:
    return 0 <= value < 1


def _is_not_negative(value: float) -> bool:
    return value >= 0
