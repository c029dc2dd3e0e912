"""jsonargparse's messages in our words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from transfer.errors import nearest

# What a user would write for a type.
_TYPES = {"NoneType": "null"}

# Names that other programs give to a field.
_ALIASES = {
    "data_root": "data data_dir data_path data_folder dataset_dir dataset_path train_dir imagefolder folder path root",
    "backbone": "model model_name arch architecture net network encoder variant",
    "dataset": "dataset_name",
    "out_dir": "output output_dir save_dir save_path log_dir logdir run_dir exp_dir project",
    "image_size": "img_size imgsz input_size size resolution crop_size",
    "dropout": "drop dropout_rate drop_rate",
    "stochastic_depth_prob": "drop_path drop_path_rate drop_connect drop_connect_rate",
    "augment": "aug augmentation aa auto_augment data_augmentation",
    "ema_half_life": "ema ema_decay model_ema model_ema_decay",
    "early_stopping": "patience early_stop",
    "freeze": "freeze_backbone frozen feature_extract",
    "seed": "random_seed manual_seed random_state",
    "pretrained": "pretrain pretrained_weights use_pretrained",
    "weights": "checkpoint ckpt ckpt_path checkpoint_path load",
    "resume": "resume_from resume_from_checkpoint auto_resume",
    "config": "cfg config_file recipe_file",
    "compile": "torch_compile torchcompile",
    "data.batch_size": "batch bs batchsize train_batch_size",
    "data.num_workers": "workers n_workers j dataloader_num_workers",
    "data.val_fraction": "val_split val_size validation_split val_ratio",
    "loss.name": "criterion loss_fn loss_function",
    "loss.label_smoothing": "smoothing",
    "loss.mixup_alpha": "mixup",
    "loss.cutmix_alpha": "cutmix",
    "optim.name": "opt optimizer optimiser",
    "optim.lr": "learning_rate base_lr lr0 max_lr init_lr",
    "optim.weight_decay": "wd decay l2",
    "optim.schedule": "sched scheduler lr_scheduler lr_schedule",
    "optim.warmup_epochs": "warmup warm_up",
    "optim.sam_rho": "sam rho",
    "trainer.max_epochs": "epochs num_epochs n_epochs nb_epochs max_epoch epoch num_train_epochs",
    "trainer.max_steps": "steps num_steps iterations iters max_iter",
    "trainer.devices": "gpus num_gpus n_gpus gpu ngpu",
    "trainer.accelerator": "device cuda",
    "trainer.num_nodes": "nodes nnodes",
    "trainer.precision": "amp fp16 bf16 mixed_precision",
    "trainer.accumulate_grad_batches": "grad_accum accumulation_steps gradient_accumulation_steps accum_iter",
    "trainer.gradient_clip_val": "clip clip_grad grad_clip max_grad_norm",
}
_FIELD_OF = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}


def explain(message: str, names: Iterable[str]) -> str:
    """Return jsonargparse's message in our words, with the allowed values and the nearest name.

    Args:
        message: jsonargparse's message.
        names: names of all options.
    """
    unknown = re.findall(r"--([\w.-]+)", message) if message.startswith("unrecognized") else []
    if match := re.search(r"Group '(\S+)' does not accept option '(\S+)'", message):
        unknown = [f"{match[1]}.{match[2]}"]
    elif match := re.search(r"Option '(\S+)' is not accepted", message):
        unknown = [match[1]]
    if unknown:
        return "\n".join(explain_unknown(name, names) for name in unknown)
    if match := re.search(r"key \"(\S+)\":\s+Expected a typing.Literal\[(.*)\]. Got value: (.*)", message):
        allowed = re.findall(r"'([^']*)'", match[2])
        return f"`{match[1]}`={match[3]!r}{nearest(match[3], allowed)} (allowed: {', '.join(allowed)})"
    if match := re.search(r"key \"(\S+)\":\s+Expected a (?:<class '(\w+)'>|(.*))\. Got value: (.*)", message):
        return f"`{match[1]}`={match[4]!r} (allowed: {match[2] or match[3]})"
    if match := re.search(r"key \"(\S+)\":\s+Does not validate against any of the Union subtypes", message):
        types = re.findall(r"- Expected (?:a |one of )?(?:<class '(\w+)'>|typing\.Literal\[(.*)\]|(.*))", message)
        allowed = [_TYPES.get(name, name) for name in ("".join(names).replace("'", "") for names in types)]
        given = re.search(r"Given value type: <class '(.*)'>\s+Given value: ([^\n]*)", message)
        value = "" if given is None else repr(given[2]) if given[1] == "str" else given[2]
        return f"`{match[1]}`={value} (allowed: {', '.join(allowed)})"
    if match := re.search(r"Parser key \"(\S+)\":\s+(.*)", message):
        return f"`{match[1]}`: {match[2]}"
    return message


def explain_unknown(given: str, names: Iterable[str]) -> str:
    """Return the message about an option that does not exist, with the one that is probably meant."""
    known = list(names)
    plain = given.replace("-", "_").lower()
    last = plain.rpartition(".")[2]
    meant = [name for name in known if name.rpartition(".")[2] == last]
    meant = (
        meant if len(meant) == 1 else [name for name in (_FIELD_OF.get(plain), _FIELD_OF.get(last)) if name in known]
    )
    hint = f"; did you mean {meant[0]!r}?" if meant else nearest(plain, known)
    return f"unknown option {given!r}{hint} (see --help)"
