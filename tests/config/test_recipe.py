"""What the rules choose, for whom, and that what the user set stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import load_dataset
from datamodules.dataset.split import Split
from datamodules.reading.tables import encoded_images
from transfer.config.auto import Rule, choose_batch_size, choose_recipe
from transfer.config.command_line import apply_choices, given_fields, parse_config
from transfer.config.problems import find_problems
from transfer.config.schema import FinetuneConfig
from transfer.costs import recommendation
from transfer.costs.recommendation import recommend_sizes
from transfer.errors import UserError
from transfer.networks.registry import get_backbone


def choices(**changes: Any) -> dict[str, Rule]:
    """For CIFAR-10 and B0."""
    facts = {
        "num_images": 45_000, "num_classes": 10, "short_side": 32, "resolution": 224, "dropout_rate": 0.2,
        "batch_size": 64,
    }  # fmt: skip
    return {choice.field: choice for choice in choose_recipe(**{**facts, **changes})}


def test_cifar() -> None:
    assert {field: choice.value for field, choice in choices().items()} == {
        "image_size": 128,
        "data.min_crop_area": 0.64,
        "trainer.max_steps": 2_250_000 // 64 + 1,
        "trainer.max_epochs": -1,
        "loss.mixup_alpha": 0.1,
        "augment": "basic",
        "dropout": 0.2,
        "ema_half_life": 0.03,
        "optim.lr": 0.01,
    }


@pytest.mark.parametrize(
    ("num_images", "num_classes", "images"),
    [
        (1_000, 10, 50_000),  # fifty passes
        (3_680, 37, 184_000),
        (19_999, 10, 256_000),  # BiT's 500 steps of 512
        (19_999, 100, 500_000),  # 5,000 for each class
        (75_750, 101, 3_787_500),
        (200_000, 101, 5_120_000),  # BiT's 10,000 steps
        (500_000, 1000, 10_240_000),
    ],
)
def test_the_length_follows_the_size_class(num_images: int, num_classes: int, images: int) -> None:
    for batch_size in (64, 512):
        found = choices(num_images=num_images, num_classes=num_classes, batch_size=batch_size)
        assert found["trainer.max_steps"].value == -(-images // batch_size)
        assert f"{images:,} images in steps of {batch_size}" in found["trainer.max_steps"].reason


@pytest.mark.parametrize(("short_side", "size"), [(8, 64), (16, 64), (28, 112), (32, 128), (64, 128), (95, 128)])
def test_small_images_are_enlarged_four_times_at_most(short_side: int, size: int) -> None:
    assert choices(short_side=short_side)["image_size"].value == size


@pytest.mark.parametrize("short_side", [96, 300, 5000])
def test_larger_images_get_the_weights_size_and_the_datasets_crops(short_side: int) -> None:
    found = choices(short_side=short_side, resolution=380)
    assert found["image_size"].value == 380 and "data.min_crop_area" not in found


def test_the_rate_is_proportional_to_the_batch_and_smaller_for_larger_backbones() -> None:
    assert [choices(batch_size=size)["optim.lr"].value for size in (64, 256, 1024)] == [0.01, 0.04, 0.16]
    rates = {size: choices(batch_size=256, resolution=size)["optim.lr"].value for size in (224, 300, 528, 600, 800)}
    assert rates == {224: 0.04, 300: 0.015, 528: 0.015, 600: 0.004, 800: 0.004}


def test_few_images_get_adamw_and_more_the_defaults_rate_and_batch() -> None:
    default = FinetuneConfig()
    found = {field: choice.value for field, choice in choices(num_images=5_000, num_classes=4).items()}
    assert (found["optim.name"], found["optim.lr"], found["optim.weight_decay"]) == ("adamw", 1e-3, 0.05)
    assert "optim.name" not in choices(num_images=24, resolution=300)  # not measured for larger networks
    found = {field: choice.value for field, choice in choices(num_images=5_001, num_classes=4).items()}
    assert found["optim.lr"] == default.optim.lr == 0.02 and "optim.name" not in found
    assert choices(num_images=5_001, batch_size=256)["optim.lr"].value == 0.08
    assert choices(num_images=24, resolution=600, batch_size=256)["optim.lr"].value == 0.004
    assert choose_batch_size() == choose_batch_size(10_000) == default.data.batch_size
    assert [choose_batch_size(fits) for fits in (63, 32, 3, 0)] == [32, 32, 2, 1]  # less only where memory ends


@pytest.mark.parametrize(("short_side", "size"), [(32, 128), (120, 380), (2000, 380)])
def test_the_doctor_recommends_what_the_recipe_takes(
    short_side: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommendation, "usable_memory", lambda: (None, "ram"))
    found = recommend_sizes(get_backbone("b4"), short_sides=[short_side], num_classes=4, own_size=None)
    assert found["image_size"] == choices(short_side=short_side, resolution=380)["image_size"].value == size
    assert found["batch_size"] == FinetuneConfig().data.batch_size


def test_mixup_from_20000_images_on() -> None:
    assert [choices(num_images=n)["loss.mixup_alpha"].value for n in (19_999, 20_000)] == [0.0, 0.1]


def test_each_choice_reads_as_field_value_and_reason() -> None:
    for field, choice in choices().items():
        assert str(choice).startswith(f"{field} {choice.value}: ") and len(choice.reason) > 20


# What the user set


def test_the_fields_that_were_given_are_those_of_flags_and_recipes(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("backbone: b1\noptim: {momentum: 0.8}\nimage_size: null\n")
    assert given_fields([]) == frozenset()
    assert given_fields(["--optim.lr", "0.02", "--config", str(recipe), "--data.cache=ram"]) == {
        "optim.lr", "optim.momentum", "backbone", "image_size", "data.cache",
    }  # fmt: skip


def test_what_was_given_stays_even_at_its_default() -> None:
    argv = ["--recipe", "auto", "--optim.lr", "0.02", "--trainer.max_epochs", "10"]
    config, applied = apply_choices(
        parse_config(argv)[0], {name: choice.value for name, choice in choices().items()}, given_fields(argv)
    )
    assert (config.optim.lr, config.trainer.max_epochs, config.trainer.max_steps) == (0.02, 10, -1)
    assert (config.image_size, config.dropout, config.data.min_crop_area) == (128, 0.2, 0.64)
    assert applied.keys() == choices().keys() - {"optim.lr", "trainer.max_epochs", "trainer.max_steps"}


def test_steps_that_were_given_are_the_only_limit() -> None:
    argv = ["--trainer.max_steps", "5"]
    choices = {"trainer.max_steps": 700, "trainer.max_epochs": -1}
    config, _ = apply_choices(parse_config(argv)[0], choices, given_fields(argv))
    assert (config.trainer.max_steps, config.trainer.max_epochs) == (5, -1)


def test_choices_that_do_not_go_with_what_was_given_are_told_at_once() -> None:
    config = parse_config(["--optim.warmup_epochs", "5"])[0]
    with pytest.raises(UserError, match=r"^`optim.warmup_epochs`=5.0: the run ends"):
        apply_choices(config, {"trainer.max_epochs": 3}, frozenset())


def test_two_ways_of_choosing_are_refused() -> None:
    (problem,) = find_problems(FinetuneConfig(protocol="paper", recipe="auto"))
    assert problem == "`protocol`=paper with `recipe`=auto: both choose the settings; leave one out"


# What the datamodule says of the images


def test_the_short_side_is_the_lower_median_of_the_training_images(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for size in ((40, 90), (90, 50), (60, 60), (70, 300)):
            path = tmp_path / label / f"{size[0]}x{size[1]}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", size).save(path)
    for split in ("val", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / split / label / "tiny.png")
    (tmp_path / "train").mkdir()
    for label in ("a", "b"):
        (tmp_path / label).rename(tmp_path / "train" / label)
    assert load_dataset("folder", data_root=tmp_path).median_short_side() == 50
    assert load_dataset("digits").median_short_side() == 8


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    split = Split("mine train", encoded_images([(b"no image", "x.png")]), np.arange(1), torch.zeros(1))
    with pytest.raises(UserError, match=r"mine train row 0 \(x.png\): not an image"):
        split.shape(0)
    missing = Split("mine train", encoded_images([(None, str(tmp_path / "gone.png"))]), np.arange(1), torch.zeros(1))
    with pytest.raises(UserError, match=r"gone.png: no such file"):
        missing.shape(0)
