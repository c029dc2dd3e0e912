"""The schema: what the flags allow is what the code behind them has, and all problems are told at once."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest
import pytorch_lightning as pl

from datamodules.dataset.sheet import ON_BAD_IMAGE
from datamodules.images.transforms import AUGMENTS
from transfer.config.data_schema import DataConfig
from transfer.config.problems import check_shares, find_problems
from transfer.config.schema import DistillConfig, FinetuneConfig, LossConfig, OptimConfig, TrainerConfig
from transfer.errors import BadValue
from transfer.training import batch_norm, losses, optim, schedules

# Parameters of pl.Trainer that are no field, and why.
LEFT_OUT = {
    "logger": "--logger chooses it",
    "callbacks": "the run's own",
    "enable_checkpointing": "a run always keeps best.ckpt and last.ckpt",
    "default_root_dir": "--out_dir",
    "plugins": "objects, not values",
    "model_registry": "objects, not values",
    "fast_dev_run": "turns the results off",
    "barebones": "turns the results off",
    "use_distributed_sampler": "the datamodule shards by itself",
    "reload_dataloaders_every_n_epochs": "the datamodule resumes by itself",
    "limit_predict_batches": "nothing is predicted while fine-tuning",
    "enable_autolog_hparams": "config.yaml holds them",
}


@pytest.mark.parametrize(
    ("config", "field", "table"),
    [
        (LossConfig, "name", losses.LOSSES),
        (OptimConfig, "name", optim.OPTIMIZERS),
        (OptimConfig, "schedule", schedules.SCHEDULES),
        (FinetuneConfig, "bn", batch_norm.POLICIES),
        (FinetuneConfig, "augment", AUGMENTS),
        (FinetuneConfig, "on_bad_image", ON_BAD_IMAGE),
    ],
)
def test_a_flag_allows_what_the_table_behind_it_has(config: type, field: str, table: Iterable[str]) -> None:
    assert get_args(get_type_hints(config)[field]) == tuple(table)


def test_every_trainer_field_is_a_parameter_of_lightnings_trainer() -> None:
    assert {field.name for field in fields(TrainerConfig)} <= set(inspect.signature(pl.Trainer).parameters)


def test_every_parameter_of_lightnings_trainer_is_a_field_or_left_out_for_a_reason() -> None:
    parameters = set(inspect.signature(pl.Trainer).parameters)
    assert parameters - {field.name for field in fields(TrainerConfig)} == set(LEFT_OUT)


@pytest.mark.parametrize("config", [DataConfig, LossConfig, DistillConfig, OptimConfig, TrainerConfig, FinetuneConfig])
def test_every_field_is_described_for_help(config: type) -> None:
    lines = [line.strip() for line in inspect.getsource(config).splitlines()]
    for field in fields(config):
        if field.name in ("data", "loss", "distill", "optim", "trainer"):
            continue
        index = next(i for i, line in enumerate(lines) if line.startswith(f"{field.name}:"))
        assert lines[index + 1].startswith('"""'), field.name


def test_the_defaults_have_no_problems() -> None:
    assert find_problems(FinetuneConfig()) == []


TOP: dict[str, tuple[Any, ...]] = {
    "image_size": (31,),
    "progressive": (31, 8192),
    "dropout": (-0.1, 1.0),
    "stochastic_depth_prob": (1.0,),
    "ema_half_life": (0.0, 1.0),
    "early_stopping": (0,),
    "freeze": ("head", "until-epoch"),
    "folds": (1,),
    "fold": (0,),
    "dataset": ("folder",),
}
IN_GROUPS: dict[str, dict[str, tuple[Any, ...]]] = {
    "data": {
        "batch_size": (0,), "num_workers": (-1,), "val_fraction": (0.0, 0.5), "multilabel": (True,),
        "per_class": (0,), "fraction": (0.0, 1.1), "draw": (-1, 1),
    },
    "loss": {"label_smoothing": (1.0,), "mixup_alpha": (-1.0,), "cutmix_alpha": (-0.1,)},
    "distill": {"weight": (0.0, 1.1, 0.9), "temperature": (0.0, 101.0)},
    "optim": {
        "lr": (0.0,), "momentum": (1.0,), "weight_decay": (-1.0,), "backbone_lr_factor": (-1.0,),
        "layer_decay": (0.0, 1.1), "warmup_epochs": (-1.0, 10.0), "sam_rho": (0.0, -0.1),
    },
    "trainer": {"max_epochs": (0, -1), "limit_val_batches": (0,)},
}  # fmt: skip
CASES = [("", field, value) for field, values in TOP.items() for value in values]
CASES += [(g, field, value) for g, group in IN_GROUPS.items() for field, values in group.items() for value in values]


@pytest.mark.parametrize(("group", "field", "value"), CASES)
def test_a_value_out_of_range_is_the_only_problem_and_named(group: str, field: str, value: Any) -> None:
    config = FinetuneConfig()
    if group:
        config = replace(config, **{group: replace(getattr(config, group), **{field: value})})
        name = f"{group}.{field}"
    else:
        config, name = replace(config, **{field: value}), field
    (problem,) = find_problems(config)
    assert problem.startswith(f"`{name}`=")


@pytest.mark.parametrize(
    ("top", "data", "named"),
    [
        ({"folds": 5, "fold": 5}, {}, "`fold`=5 with `folds`=5 (allowed: 0 to 4)"),
        ({"folds": 5, "fold": -1}, {}, "`fold`=-1 with `folds`=5 (allowed: 0 to 4)"),
        ({"folds": 5}, {"train_on": "trainval"}, "`folds`=5 with `data.train_on`=trainval"),
        ({"folds": 5}, {"stream": True}, "`folds`=5 with `data.stream`=True"),
        ({}, {"fraction": 0.5, "stream": True}, "`data.fraction`=0.5 with `data.stream`=True"),
        ({}, {"fraction": 0.5, "per_class": 3}, "`data.per_class`=3 with `data.fraction`=0.5: choose one"),
        ({"loss": LossConfig(name="bce")}, {"per_class": 3, "multilabel": True}, "`data.per_class`=3 with"),
        ({"loss": LossConfig(name="bce")}, {"metric": "top1", "multilabel": True}, "`data.metric`=top1 with"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(top: dict[str, Any], data: dict[str, Any], named: str) -> None:
    (problem,) = find_problems(FinetuneConfig(**top, data=DataConfig(**data)))
    assert problem.startswith(named)


def test_values_on_the_edge_of_the_range_are_allowed() -> None:
    config = FinetuneConfig(
        image_size=32, dropout=0.0, stochastic_depth_prob=0.0, early_stopping=1, freeze="until-epoch 9",
        bn="frozen", data=DataConfig(batch_size=1, num_workers=0, val_fraction=0.499),
        loss=LossConfig(label_smoothing=0.0),
        optim=OptimConfig(momentum=0.0, weight_decay=0.0, backbone_lr_factor=0.0, layer_decay=1.0, warmup_epochs=0.0),
        trainer=TrainerConfig(max_epochs=10),
    )  # fmt: skip
    assert find_problems(config) == []
    assert find_problems(FinetuneConfig(trainer=TrainerConfig(max_epochs=-1, max_steps=5))) == []
    drawn = DataConfig(fraction=1.0, draw=2**32 - 1)
    assert find_problems(FinetuneConfig(folds=2, fold=1, data=drawn)) == []


@pytest.mark.parametrize(
    ("trainer", "named"),
    [
        ({"accumulate_grad_batches": 2}, "`trainer.accumulate_grad_batches`=2: both passes need the whole batch"),
        ({"precision": "16-mixed"}, "`trainer.precision`=16-mixed: its scaled gradients"),
        (
            {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
            "`trainer.gradient_clip_algorithm`=value: clipping by value changes the direction",
        ),
    ],
)
def test_what_sam_cannot_go_with_is_refused_with_the_reason(trainer: dict[str, Any], named: str) -> None:
    (problem,) = find_problems(FinetuneConfig(optim=OptimConfig(sam_rho=0.05), trainer=TrainerConfig(**trainer)))
    assert problem.startswith(f"`optim.sam_rho` with {named}")


def test_sam_goes_with_bf16_and_with_a_limit_on_the_gradients_norm() -> None:
    trainer = TrainerConfig(precision="bf16-mixed", gradient_clip_val=1.0, gradient_clip_algorithm="norm")
    assert find_problems(FinetuneConfig(optim=OptimConfig(sam_rho=0.05), trainer=trainer)) == []


def test_a_backbone_frozen_to_the_end_is_told_to_say_so() -> None:
    (problem,) = find_problems(FinetuneConfig(freeze="until-epoch 10"))
    assert problem.endswith("the backbone would never learn; use `freeze`=backbone")


def test_a_file_for_random_weights_is_refused() -> None:
    (problem,) = find_problems(FinetuneConfig(pretrained=False, weights="my.pth"))
    assert problem == "`weights`=my.pth with `pretrained`=False: say how the file was trained"


def test_all_problems_are_told_at_once() -> None:
    config = FinetuneConfig(image_size=8, optim=OptimConfig(lr=-1.0), data=DataConfig(multilabel=True))
    assert [problem.split("=")[0] for problem in find_problems(config)] == [
        "`image_size`",
        "`optim.lr`",
        "`data.multilabel`",
    ]


def test_options_for_data_and_network_are_arguments_of_their_builders() -> None:
    from datamodules.datamodule import DataModule
    from datamodules.dataset.sheet import ReadOptions
    from transfer.weights.build import classifier_from
    from transfer.weights.start import resolve_start

    assert set(FinetuneConfig().network_options()) <= set(inspect.signature(classifier_from).parameters)
    assert set(FinetuneConfig().start_options()) <= set(inspect.signature(resolve_start).parameters)
    assert set(FinetuneConfig().loader_options()) <= set(inspect.signature(DataModule).parameters)
    assert ReadOptions(**FinetuneConfig().read_options()) == ReadOptions()


@pytest.mark.parametrize(
    ("text", "epochs"),
    [("none", 0), ("backbone", None), ("until-epoch 3", 3), ("until-epoch=12", 12), ("until-epoch-1", 1)],
)
def test_freeze_is_a_number_of_epochs(text: str, epochs: int | None) -> None:
    assert FinetuneConfig(freeze=text).frozen_epochs() == epochs


@pytest.mark.parametrize("text", ["", "head", "until-epoch", "until-epoch x", "backbone 3"])
def test_another_freeze_is_a_problem(text: str) -> None:
    assert find_problems(FinetuneConfig(freeze=text)) == [
        f"`freeze`={text!r} (allowed: none, backbone, 'until-epoch N')"
    ]


@pytest.mark.parametrize(
    ("field", "share", "least"),
    [
        ("limit_train_batches", 0.09, "0.1"),
        ("overfit_batches", 0.09, "0.1"),
        ("limit_val_batches", 0.3, "0.334"),
        ("limit_test_batches", 0.3, "0.334"),
    ],
)
def test_a_share_of_less_than_a_batch_is_refused_with_the_least(field: str, share: float, least: str) -> None:
    sizes = {"train": 645, "val": 130, "test": 130}  # 10 whole batches of 64, and 3 with the last one
    with pytest.raises(BadValue, match=rf"`trainer\.{field}`={share}: .*at least {least},"):
        check_shares(FinetuneConfig(trainer=TrainerConfig(**{field: share})), sizes, 1)
    for fine in (float(least), 1.0, 1):
        check_shares(FinetuneConfig(trainer=TrainerConfig(**{field: fine})), sizes, 1)
    with pytest.raises(BadValue, match=field):  # half of the images for each process
        check_shares(FinetuneConfig(trainer=TrainerConfig(**{field: float(least)})), sizes, 2)
