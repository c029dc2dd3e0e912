"""The protocols' rows, the rule for small data, and how a batch is divided."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from datamodules import list_datasets
from transfer.config.choices import choose_by_protocol, divide_batch, share_batch
from transfer.config.command_line import apply_choices, given_fields, parse_config
from transfer.config.data_schema import DataConfig
from transfer.config.parsing import flatten
from transfer.config.protocols import Protocol, get_protocol, list_protocols, protocol_settings, protocol_steps
from transfer.config.schema import FinetuneConfig, TrainerConfig
from transfer.errors import UserError
from transfer.networks.registry import list_backbones
from transfer.training.schedules import schedule_factor

FIELDS = set(flatten(FinetuneConfig().to_dict()))


def settings(name: str, **changes: Any) -> dict[str, Any]:
    """Of the protocol's own trial on Flowers."""
    protocol = get_protocol(name)
    options = {"dataset": "flowers", "backbone": "b0", "num_images": 2040}
    return protocol_settings(protocol, changes.pop("trial", protocol.middle), **{**options, **changes})


def test_the_names() -> None:
    assert list_protocols() == [
        *("bit-hyperrule", "efficientnetv2", "kornblith", "paper"),
        *("sam-paper", "sam-paper-rho0.05", "scratch", "vtab-1k"),
    ]
    assert [get_protocol(name).name for name in list_protocols()] == list_protocols()


def test_an_unknown_name_is_answered_with_all_there_are() -> None:
    with pytest.raises(UserError) as caught:
        get_protocol("kornblit")
    assert str(caught.value) == (
        f"unknown protocol 'kornblit'; did you mean 'kornblith'? (allowed: {', '.join(list_protocols())})"
    )


@pytest.mark.parametrize("name", list_protocols())
def test_a_row_is_sourced_and_its_fields_exist(name: str) -> None:
    protocol = get_protocol(name)
    assert "arXiv" in protocol.source
    assert set(protocol.settings) <= FIELDS
    assert protocol.middle in protocol.grid
    assert {frozenset(trial) for trial in protocol.grid} == {frozenset(protocol.middle)}
    assert len({tuple(trial.items()) for trial in protocol.grid}) == len(protocol.grid)
    assert all(set(row.settings) <= FIELDS for row in protocol.larger)
    for deviation in protocol.deviations:
        assert set(deviation.names) <= {*list_datasets(), *list_backbones()}
        assert set(deviation.settings) <= FIELDS


@pytest.mark.parametrize("name", list_protocols())
def test_a_row_leaves_nothing_that_is_computed_to_the_defaults(name: str) -> None:
    found = settings(name)
    assert {field for field in FIELDS if field.startswith(("loss.", "optim."))} <= set(found)
    assert {"augment", "progressive", "dropout", "stochastic_depth_prob", "bn", "freeze", "ema_half_life"} <= set(found)


@pytest.mark.parametrize("name", list_protocols())
def test_every_cell_makes_a_configuration_without_problems(name: str) -> None:
    protocol = get_protocol(name)
    for trial in (protocol.grid[0], protocol.middle, protocol.grid[-1]):
        found = settings(name, trial=trial)
        config, applied = apply_choices(FinetuneConfig(), found, frozenset())
        assert applied == found
        values = flatten(config.to_dict())
        assert {field: values[field] for field in found} == found
        for field, value in found.items():
            assert value is None or type(values[field]) is type(value), field


# Kornblith et al. as SimCLR restates it.


def test_kornblith_is_a_grid_of_seven_by_eight_with_the_decay_divided_by_the_rate() -> None:
    protocol = get_protocol("kornblith")
    assert (protocol.batch_size, protocol.steps, len(protocol.grid)) == (256, 20_000, 56)
    rates = np.logspace(-4, -1, 7)
    decays = [0.0, *np.logspace(-6, -3, 7)]
    found = [(trial["optim.lr"], trial["optim.weight_decay"]) for trial in protocol.grid]
    expected = [(rate, decay / rate) for rate, decay in product(rates, decays)]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert protocol.middle["optim.lr"] == 0.003162
    assert protocol.settings["bn"] == "adapt" and protocol.settings["optim.schedule"] == "cosine"


def test_scratch_starts_from_random_weights_with_its_own_grid() -> None:
    protocol = get_protocol("scratch")
    assert (protocol.steps, len(protocol.grid), protocol.settings["pretrained"]) == (40_000, 56, False)
    found = [(trial["optim.lr"], trial["optim.weight_decay"]) for trial in protocol.grid]
    np.testing.assert_allclose(found, list(product(np.logspace(-3, 0, 7), np.logspace(-5, -1.5, 8))), rtol=1e-3)


def test_the_papers_average_forgets_half_in_6931_steps() -> None:
    found = settings("paper")
    assert found["ema_half_life"] * 20_000 == pytest.approx(6931, abs=2)
    assert 0.5 ** (1 / (found["ema_half_life"] * 20_000)) == pytest.approx(0.9999, abs=1e-7)
    assert (found["optim.lr"], found["optim.name"], found["optim.schedule"]) == (0.004, "rmsprop", "exponential")


@pytest.mark.parametrize("num_images", [2040, 75_750])
def test_the_papers_warm_up_and_decay_are_shares_of_the_run_as_on_imagenet(num_images: int) -> None:
    found = settings("paper", num_images=num_images)
    epoch = num_images / 256
    warmup = round(found["optim.warmup_epochs"] * epoch)
    assert warmup / 20_000 == pytest.approx(5 / 350, rel=0.01)
    rates = [schedule_factor(found["optim.schedule"], step, 20_000, warmup) for step in range(20_000)]
    assert max(rates) > 0.9 and rates[-1] == pytest.approx(1.2e-2, rel=0.05)
    assert sum(rate < 0.01 for rate in rates[warmup:]) == 0


def test_sam_augments_cifar_by_autoaugment_and_l2_has_half_the_batch_and_rate() -> None:
    assert {name for name in list_datasets() if settings("sam-paper", dataset=name)["augment"] == "autoaugment"} == {
        "cifar10", "cifar100",
    }  # fmt: skip
    b7, l2 = (settings("sam-paper", dataset="cifar10", backbone=name) for name in ("b7", "l2"))
    assert (b7["global_batch_size"], b7["optim.lr"], b7["augment"]) == (1024, 0.016, "autoaugment")
    assert (l2["global_batch_size"], l2["optim.lr"], l2["augment"]) == (512, 0.008, "autoaugment")
    with_sam = settings("sam-paper-rho0.05", dataset="cifar10", backbone="b7")
    assert {field for field in b7 if b7[field] != with_sam[field]} == {"optim.sam_rho"}
    assert with_sam["optim.sam_rho"] == 0.05


# BiT's rule


@pytest.mark.parametrize(
    ("num_images", "supports"),
    [
        *((size, [100, 200, 300, 400, 500]) for size in (50, 2040, 19_999)),
        *((size, [500, 3000, 6000, 9000, 10_000]) for size in (20_000, 499_999)),
        (500_000, [500, 6000, 12_000, 18_000, 20_000]),
    ],
)
def test_bits_rate_is_that_of_its_code(num_images: int, supports: list[int]) -> None:
    """`get_lr` of bit_hyperrule.py: warm-up, and a tenth after each support but the last."""
    found = settings("bit-hyperrule", num_images=num_images)
    assert found["trainer.max_steps"] == supports[-1]
    assert (found["optim.lr"], found["optim.weight_decay"], found["optim.momentum"]) == (0.003, 0.0, 0.9)
    warmup = round(found["optim.warmup_epochs"] * math.ceil(num_images / 512))
    assert warmup == supports[0]
    for step in range(supports[0] + 1, supports[-1]):
        expected = 0.1 ** sum(support < step for support in supports[1:])
        assert schedule_factor(found["optim.schedule"], step, supports[-1], warmup) == pytest.approx(expected)
    assert found["loss.mixup_alpha"] == (0.1 if num_images >= 20_000 else 0.0)


@pytest.mark.parametrize(("dataset", "share"), [("cifar10", 128 / 160), ("flowers", 480 / 512)])
def test_bits_crops_keep_their_share_of_the_side(dataset: str, share: float) -> None:
    assert settings("bit-hyperrule", dataset=dataset)["data.min_crop_area"] == pytest.approx(share**2, rel=1e-3)


def test_vtabs_thousand_images_get_a_thousand_steps() -> None:
    found = settings("vtab-1k", num_images=1000)
    assert (found["trainer.max_steps"], found["global_batch_size"], found["optim.lr"]) == (1000, 64, 0.01)
    warmup = round(found["optim.warmup_epochs"] * math.ceil(1000 / 64))
    rates = [0.01 * schedule_factor(found["optim.schedule"], step, 1000, warmup) for step in (80, 300, 301, 601, 901)]
    assert warmup == 80 and rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-5])


# Length


@pytest.mark.parametrize("name", [name for name in list_protocols() if not get_protocol(name).larger])
def test_the_eight_datasets_keep_the_full_length(name: str) -> None:
    protocol = get_protocol(name)
    for num_images in (50_000, 47_386, 8_144, 2_040, 6_667, 3_680, 75_750):  # Tan & Le 2019, table 6
        assert protocol_steps(protocol, num_images) == protocol.steps


@pytest.mark.parametrize(("num_images", "steps"), [(2039, 19_991), (1020, 10_000), (204, 2000), (1, 10)])
def test_smaller_data_get_steps_in_proportion(num_images: int, steps: int) -> None:
    protocol = get_protocol("kornblith")
    assert protocol_steps(protocol, num_images) == steps
    passes = steps * protocol.batch_size / num_images
    assert passes == pytest.approx(20_000 * 256 / 2040, rel=0.03)


def test_a_run_is_validated_about_twenty_times() -> None:
    for num_images in (50, 2040, 50_000, 75_750):
        found = settings("kornblith", num_images=num_images)
        epochs = found["trainer.max_steps"] / math.ceil(num_images / 256)
        assert 18 <= epochs / found["trainer.check_val_every_n_epoch"] <= 30
        assert found["trainer.max_epochs"] == -1


@pytest.mark.parametrize(
    ("argv", "epochs"), [(["--trainer.max_steps", "80"], 80 * 256 / 2040), (["--trainer.max_epochs", "70"], 70)]
)
def test_a_run_of_another_length_warms_up_and_validates_in_proportion(argv: list[str], epochs: float) -> None:
    argv = ["--protocol", "paper", "--dataset", "flowers", *argv]
    config, lines = choose_by_protocol(parse_config(argv)[0], given_fields(argv), num_images=2040, epoch_images=2040)
    assert config.optim.warmup_epochs == pytest.approx(epochs * 5 / 350, rel=0.02)
    assert config.trainer.check_val_every_n_epoch == max(1, int(epochs / 20))
    assert (config.trainer.max_steps, config.trainer.max_epochs) in ((80, -1), (-1, 70))
    assert "trainer.max_steps: as you set it, not 20000" in lines


@pytest.mark.parametrize(("epoch_images", "steps_per_epoch"), [(None, 2), (900, 2), (300, 1)])
def test_the_warm_up_counts_the_epochs_of_the_images_that_are_trained_on(
    epoch_images: int | None, steps_per_epoch: int
) -> None:
    found = settings("bit-hyperrule", num_images=1000, epoch_images=epoch_images)
    assert found["optim.warmup_epochs"] * steps_per_epoch == pytest.approx(100)
    assert found["trainer.max_steps"] == 500


# Batch


@pytest.mark.parametrize(
    ("processes", "most", "per_process", "accumulated"),
    [
        (1, 64, 64, 4),
        (1, 256, 256, 1),
        (1, 9999, 256, 1),
        (4, 64, 64, 1),
        (8, 7, 4, 8),
        (1, 100, 64, 4),
    ],
)
def test_a_global_batch_is_divided_exactly(processes: int, most: int, per_process: int, accumulated: int) -> None:
    assert divide_batch(256, processes, most) == (per_process, accumulated)
    assert processes * per_process * accumulated == 256
    config = FinetuneConfig(global_batch_size=256, data=DataConfig(batch_size=most))
    shared, lines = share_batch(config, frozenset(), processes)
    assert shared.data.batch_size * shared.trainer.accumulate_grad_batches * processes == 256
    assert lines == [
        f"a step has 256 images: {processes} process{'es' if processes > 1 else ''} x {shared.data.batch_size} at once"
        f" x {shared.trainer.accumulate_grad_batches}"
    ]
    assert share_batch(shared, frozenset(), processes)[0] == shared  # so that a resumed run is the same


def test_a_share_of_one_image_is_left_to_frozen_statistics() -> None:
    assert divide_batch(256, 256, 64) == (1, 1)
    with pytest.raises(UserError, match=r"`data.batch_size`=1: BatchNorm needs at least 2"):
        share_batch(FinetuneConfig(global_batch_size=256), frozenset(), 256)


def test_processes_that_cannot_share_the_batch_are_told_which_can() -> None:
    with pytest.raises(UserError) as caught:
        divide_batch(256, 3, 64)
    assert str(caught.value) == (
        "`global_batch_size`=256: 3 processes cannot share it equally"
        " (allowed: 1, 2, 4, 8, 16, 32, 64, 128, 256 processes, or another batch)"
    )


def test_a_run_resumed_on_other_processes_keeps_its_batch() -> None:
    config, _ = share_batch(FinetuneConfig(global_batch_size=256), frozenset(), 1)
    assert (config.data.batch_size, config.trainer.accumulate_grad_batches) == (64, 4)
    config, _ = share_batch(config, frozenset(), 8)
    assert (config.data.batch_size, config.trainer.accumulate_grad_batches) == (32, 1)


def test_without_a_global_batch_nothing_is_divided() -> None:
    assert share_batch(FinetuneConfig(), frozenset(), 3) == (FinetuneConfig(), [])


def test_accumulation_that_contradicts_the_global_batch_is_refused() -> None:
    config = FinetuneConfig(global_batch_size=256, trainer=TrainerConfig(accumulate_grad_batches=2))
    with pytest.raises(UserError, match=r"=2 with `global_batch_size`=256, which is 1 x 64 images x 4: leave one"):
        share_batch(config, frozenset({"trainer.accumulate_grad_batches"}), 1)


def test_sam_needs_its_batch_at_once() -> None:
    config, _ = apply_choices(FinetuneConfig(), settings("sam-paper-rho0.05"), frozenset())
    assert share_batch(config, frozenset(), 16)[0].data.batch_size == 64
    with pytest.raises(UserError, match=r"`trainer.accumulate_grad_batches`=8: both passes need the whole batch"):
        share_batch(config, frozenset(), 2)


def test_a_trial_goes_over_the_row() -> None:
    found = settings("kornblith", trial={"optim.lr": 0.5, "optim.weight_decay": 0.25})
    assert (found["optim.lr"], found["optim.weight_decay"]) == (0.5, 0.25)


def test_a_row_without_a_grid_has_one_trial() -> None:
    assert Protocol("x", "arXiv", 1, 1, {}).grid == ({},)
