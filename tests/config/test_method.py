"""Which runs take the recipe and the method `lpft` by themselves, and what it then chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from transfer.config.choices import choose_by_rule, settle_method, settle_recipe
from transfer.config.command_line import given_fields, parse_config
from transfer.config.problems import find_problems
from transfer.config.schema import FinetuneConfig, LossConfig, TrainerConfig
from transfer.errors import BadValue

PHOTOS = ("--data_root", "photos")


def settle(*words: str, num_images: int = 1_000, has_weights: bool = True, processes: int = 1) -> FinetuneConfig:
    config, given = parse_config(words)[0], given_fields(words)
    config, _ = settle_recipe(config, given, num_images=num_images, has_weights=has_weights)
    return settle_method(config, given, num_images=num_images, has_weights=has_weights, num_processes=processes)[0]


@pytest.mark.parametrize(
    ("words", "facts", "recipe", "method"),
    [
        (PHOTOS, {}, "auto", "lpft"),
        (PHOTOS, {"num_images": 5_000}, "auto", "lpft"),
        (PHOTOS, {"num_images": 400}, "auto", "lpft"),
        ((*PHOTOS, "--backbone", "lite1", "--trainer.accelerator", "cpu"), {"num_images": 399}, "auto", "probe"),
        ((*PHOTOS, "--trainer.max_epochs", "5"), {"num_images": 399}, "auto", "lpft"),
        ((*PHOTOS, "--folds", "5", "--fold", "1"), {"num_images": 399}, "auto", "lpft"),
        (("--dataset", "flowers", "--method", "probe"), {}, "none", "probe"),
        (PHOTOS, {"num_images": 5_001}, "none", "full"),
        (PHOTOS, {"has_weights": False}, "none", "full"),
        (PHOTOS, {"processes": 2}, "auto", "full"),
        ((*PHOTOS, "--init_head", "run"), {"processes": 2}, "auto", "lpft"),
        ((*PHOTOS, "--protocol", "kornblith"), {}, "none", "full"),
        ((*PHOTOS, "--recipe", "none"), {}, "none", "full"),
        ((*PHOTOS, "--optim.lr", "0.02"), {}, "none", "full"),
        ((*PHOTOS, "--optim.name", "sgd"), {}, "none", "full"),
        ((*PHOTOS, "--optim.name", "sgd", "--recipe", "auto"), {}, "auto", "lpft"),
        ((*PHOTOS, "--optim.weight_decay", "0.1"), {}, "auto", "lpft"),
        ((*PHOTOS, "--method", "full"), {}, "auto", "full"),
        ((*PHOTOS, "--head", "mlp"), {}, "auto", "full"),
        ((*PHOTOS, "--data.multilabel", "true"), {}, "auto", "full"),
        ((*PHOTOS, "--data.train_on", "trainval"), {}, "auto", "full"),
        ((*PHOTOS, "--freeze", "backbone"), {}, "auto", "full"),
        ((*PHOTOS, "--trainer.limit_train_batches", "3"), {}, "auto", "full"),
        ((*PHOTOS, "--recipe", "auto"), {"num_images": 5_001}, "auto", "full"),
        (("--dataset", "flowers"), {}, "none", "full"),
        (("--dataset", "flowers", "--recipe", "auto"), {}, "auto", "lpft"),
        (("--dataset", "flowers", "--method", "lpft"), {"num_images": 50_000}, "none", "lpft"),
    ],
)
def test_who_gets_which(words: tuple[str, ...], facts: dict[str, Any], recipe: str, method: str) -> None:
    settled = settle(*words, **facts)
    assert (settled.recipe, settled.method) == (recipe, method)
    assert find_problems(settled) == []


def choose(config: FinetuneConfig, given: frozenset[str] = frozenset(), **facts: Any) -> tuple[FinetuneConfig, Any]:
    known = {"num_images": 300, "is_balanced": False, "num_classes": 10, "short_side": 500, "resolution": 224}
    known["dropout_rate"] = 0.2
    return choose_by_rule(config, given, **{**known, **facts}, num_processes=1)


def test_lpft_leaves_what_was_set_and_tells_the_rest() -> None:
    config = FinetuneConfig(method="lpft", recipe="none")
    chosen, lines = choose(config, frozenset({"optim.lr", "method"}))
    assert chosen.optim.lr == config.optim.lr and "optim.lr: as you set it" in lines
    assert chosen.bn == "frozen" and any(line.startswith("bn frozen: ") for line in lines)
    assert all(": " in line and len(line) > 30 for line in lines if "as you set it" not in line)
    assert chosen.image_size is None


@pytest.mark.parametrize(("given", "chosen"), [((), True), (("loss.logit_adjustment",), False)])
def test_where_the_mean_per_class_counts_lpft_adjusts_the_loss(given: tuple[str, ...], chosen: bool) -> None:
    config = FinetuneConfig(method="lpft", recipe="none")
    found, lines = choose(config, frozenset(given), is_balanced=True)
    assert (found.loss.logit_adjustment, found.loss.class_weights) == (chosen, "none")
    said = "loss.logit_adjustment True: the mean per class is what counts (ours)"
    assert (said if chosen else "loss.logit_adjustment: as you set it") in lines
    assert not choose(config)[0].loss.logit_adjustment
    assert not choose(FinetuneConfig(method="full", recipe="auto"), is_balanced=True)[0].loss.logit_adjustment


@pytest.mark.parametrize("loss", [LossConfig(class_weights="balanced"), LossConfig(name="bce")])
def test_a_loss_that_cannot_be_adjusted_stays(loss: LossConfig) -> None:
    config = FinetuneConfig(method="lpft", recipe="none", loss=loss)
    found, _ = choose(config, frozenset({"loss.class_weights", "loss.name"}), is_balanced=True)
    assert found.loss == replace(loss, label_smoothing=0.0)


@pytest.mark.parametrize(("short_side", "size", "crop"), [(500, 224, 0.5), (32, 128, 0.64)])
def test_the_recipe_adds_the_size(short_side: int, size: int, crop: float) -> None:
    chosen, lines = choose(FinetuneConfig(method="lpft", recipe="auto"), short_side=short_side)
    assert (chosen.image_size, chosen.data.min_crop_area) == (size, crop)
    assert len({line.partition(" ")[0] for line in lines}) == len(lines)


@pytest.mark.parametrize(("num_images", "epochs"), [(30, 20), (1_350, 20), (1_800, 15), (2_700, 10), (5_000, 10)])
def test_more_images_take_fewer_epochs(num_images: int, epochs: int) -> None:
    chosen, _ = choose(FinetuneConfig(method="lpft", recipe="none"), num_images=num_images)
    assert chosen.trainer.max_epochs == epochs


@pytest.mark.parametrize(("given", "length", "warmup"), [((), 10, 4.0), (("trainer.max_epochs",), 1, 0.2)])
def test_lpft_warms_up_for_a_fifth_of_its_run(given: tuple[str, ...], length: int, warmup: float) -> None:
    config = FinetuneConfig(method="lpft", recipe="none", trainer=TrainerConfig(max_epochs=length))
    assert choose(config, frozenset(given))[0].optim.warmup_epochs == warmup


def test_neither_recipe_nor_method_changes_nothing() -> None:
    config = FinetuneConfig(method="full", recipe="none")
    assert choose(config) == (config, [])


def test_lpft_on_several_processes_wants_the_head_of_a_run() -> None:
    with pytest.raises(BadValue, match=r"on 2 processes: .* pass its folder as `init_head`"):
        settle(*PHOTOS, "--method", "lpft", processes=2)


def test_an_optimizer_that_excludes_the_recipe_is_said() -> None:
    config, given = parse_config([*PHOTOS, "--optim.lr", "0.02"])[0], frozenset({"optim.lr", "data_root"})
    _, (line,) = settle_recipe(config, given, num_images=300, has_weights=True)
    assert line.startswith("recipe none") and "optim.lr" in line


def test_a_probe_trains_no_network() -> None:
    with pytest.raises(BadValue, match=r"`method`=probe trains no network: leave out `trainer\.max_epochs`"):
        settle(*PHOTOS, "--method", "probe", "--trainer.max_epochs", "3")


def test_why_it_is_not_lpft_is_said() -> None:
    config = parse_config([*PHOTOS, "--recipe", "auto", "--head", "mlp"])[0]
    _, (line,) = settle_method(config, frozenset(), num_images=300, has_weights=True, num_processes=1)
    assert line.startswith("method full: ") and "head=mlp" in line
