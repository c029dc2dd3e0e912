"""The compound rule and the names it gives; channels and repeats of every published network follow by rounding."""

from __future__ import annotations

import pytest

from transfer.errors import UserError
from transfer.networks.registry import get_backbone
from transfer.networks.scaling import (
    Scale,
    compound_scale,
    round_filters,
    round_repeats,
    scale,
    scale_phi,
    search_objective,
)

B0_CHANNELS = (16, 24, 40, 80, 112, 192, 320)
B0_REPEATS = (1, 2, 2, 3, 3, 4, 1)

# tensorflow/tpu efficientnet_builder.py: width, depth, stem, channels and repeats of the seven stages, top.
PUBLISHED = {
    "b0": (1.0, 1.0, 32, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 1280),
    "b1": (1.0, 1.1, 32, (16, 24, 40, 80, 112, 192, 320), (2, 3, 3, 4, 4, 5, 2), 1280),
    "b2": (1.1, 1.2, 32, (16, 24, 48, 88, 120, 208, 352), (2, 3, 3, 4, 4, 5, 2), 1408),
    "b3": (1.2, 1.4, 40, (24, 32, 48, 96, 136, 232, 384), (2, 3, 3, 5, 5, 6, 2), 1536),
    "b4": (1.4, 1.8, 48, (24, 32, 56, 112, 160, 272, 448), (2, 4, 4, 6, 6, 8, 2), 1792),
    "b5": (1.6, 2.2, 48, (24, 40, 64, 128, 176, 304, 512), (3, 5, 5, 7, 7, 9, 3), 2048),
    "b6": (1.8, 2.6, 56, (32, 40, 72, 144, 200, 344, 576), (3, 6, 6, 8, 8, 11, 3), 2304),
    "b7": (2.0, 3.1, 64, (32, 48, 80, 160, 224, 384, 640), (4, 7, 7, 10, 10, 13, 4), 2560),
    "b8": (2.2, 3.6, 72, (32, 56, 88, 176, 248, 424, 704), (4, 8, 8, 11, 11, 15, 4), 2816),
    "l2": (4.3, 5.3, 136, (72, 104, 176, 344, 480, 824, 1376), (6, 11, 11, 16, 16, 22, 6), 5504),
}
# efficientnet_lite_builder.py: stem 32 and top 1280 stay, so do the repeats of the first and the last stage.
PUBLISHED_LITE = {
    "lite0": (1.0, 1.0, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "lite1": (1.0, 1.1, (16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
    "lite2": (1.1, 1.2, (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
    "lite3": (1.2, 1.4, (24, 32, 48, 96, 136, 232, 384), (1, 3, 3, 5, 5, 6, 1)),
    "lite4": (1.4, 1.8, (24, 32, 56, 112, 160, 272, 448), (1, 4, 4, 6, 6, 8, 1)),
}
# google/automl effnetv2_configs.py, scaled by its rounding without a step up (v2-b3's first stage: 16, not 24).
PUBLISHED_V2 = {
    "v2-b0": (32, (16, 32, 48, 96, 112, 192), (1, 2, 2, 3, 5, 8), 1280),
    "v2-b1": (32, (16, 32, 48, 96, 112, 192), (2, 3, 3, 4, 6, 9), 1280),
    "v2-b2": (32, (16, 32, 56, 104, 120, 208), (2, 3, 3, 4, 6, 10), 1408),
    "v2-b3": (40, (16, 40, 56, 112, 136, 232), (2, 3, 3, 5, 7, 12), 1536),
    "v2-s": (24, (24, 48, 64, 128, 160, 256), (2, 4, 4, 6, 9, 15), 1280),
    "v2-m": (24, (24, 48, 80, 160, 176, 304, 512), (3, 5, 5, 7, 14, 18, 5), 1280),
    "v2-l": (32, (32, 64, 96, 192, 224, 384, 640), (4, 7, 7, 10, 19, 25, 7), 1280),
    "v2-xl": (32, (32, 64, 96, 192, 256, 512, 640), (4, 8, 8, 16, 24, 32, 8), 1280),
}


@pytest.mark.parametrize("name", PUBLISHED_V2)
def test_a_v2_variant_has_the_published_stages(name: str) -> None:
    stem, channels, repeats, top = PUBLISHED_V2[name]
    variant = get_backbone(name)
    assert (variant.stem_channels, variant.num_features) == (stem, top)
    assert tuple(row.out_channels for row in variant.stages) == channels
    assert tuple(row.repeats for row in variant.stages) == repeats
    assert [row.fused for row in variant.stages] == [i < 3 for i in range(len(channels))]
    assert [row.stride for row in variant.stages] == [1, 2, 2, 2, 1, 2, 1][: len(channels)]
    assert [row.expand_ratio for row in variant.stages] == [1, 4, 4, 4, 6, 6, 6][: len(channels)]
    assert [row.se_ratio for row in variant.stages] == [0.0 if row.fused else 0.25 for row in variant.stages]


@pytest.mark.parametrize("name", PUBLISHED)
def test_round_filters_gives_the_published_channels(name: str) -> None:
    width, _, stem, channels, _, top = PUBLISHED[name]
    assert tuple(round_filters(c, width) for c in (32, *B0_CHANNELS, 1280)) == (stem, *channels, top)


@pytest.mark.parametrize("name", PUBLISHED)
def test_round_repeats_gives_the_published_repeats(name: str) -> None:
    _, depth, _, _, repeats, _ = PUBLISHED[name]
    assert tuple(round_repeats(r, depth) for r in B0_REPEATS) == repeats


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_variant_has_the_published_coefficients_and_stages(name: str) -> None:
    width, depth, stem, channels, repeats, top = PUBLISHED[name]
    variant = get_backbone(name)
    assert (variant.width_coefficient, variant.depth_coefficient) == (width, depth)
    assert (variant.stem_channels, variant.num_features) == (stem, top)
    assert tuple(row.out_channels for row in variant.stages) == channels
    assert tuple(row.in_channels for row in variant.stages) == (stem, *channels[:-1])
    assert tuple(row.repeats for row in variant.stages) == repeats


@pytest.mark.parametrize("name", PUBLISHED_LITE)
def test_a_lite_variant_keeps_stem_top_and_outer_repeats_and_has_no_gates(name: str) -> None:
    width, depth, channels, repeats = PUBLISHED_LITE[name]
    variant = get_backbone(name)
    assert (variant.width_coefficient, variant.depth_coefficient) == (width, depth)
    assert (variant.stem_channels, variant.num_features, variant.settings.activation) == (32, 1280, "relu6")
    assert tuple(row.out_channels for row in variant.stages) == channels
    assert tuple(row.in_channels for row in variant.stages) == (32, *channels[:-1])
    assert tuple(row.repeats for row in variant.stages) == repeats
    assert {row.se_ratio for row in variant.stages} == {0.0}


def test_resolution_and_dropout_are_the_published_ones() -> None:
    published = {
        "b0": (224, 0.2), "b1": (240, 0.2), "b2": (260, 0.3), "b3": (300, 0.3), "b4": (380, 0.4),
        "b5": (456, 0.4), "b6": (528, 0.5), "b7": (600, 0.5), "b8": (672, 0.5), "l2": (800, 0.5),
        "lite0": (224, 0.2), "lite1": (240, 0.2), "lite2": (260, 0.3), "lite3": (280, 0.3), "lite4": (300, 0.3),
        "v2-b0": (224, 0.2), "v2-b1": (240, 0.2), "v2-b2": (260, 0.3), "v2-b3": (300, 0.3),
        "v2-s": (384, 0.2), "v2-m": (480, 0.3), "v2-l": (480, 0.4), "v2-xl": (512, 0.4),
    }  # fmt: skip
    variants = {name: get_backbone(name) for name in published}
    assert {name: (v.resolution, v.dropout_rate) for name, v in variants.items()} == published


def test_a_width_of_one_leaves_channels_alone() -> None:
    assert round_filters(20, 1.0) == 20


def test_channels_are_never_fewer_than_the_divisor() -> None:
    assert round_filters(16, 0.1) == 8


def test_rounding_down_by_more_than_a_tenth_goes_one_step_up() -> None:
    assert round_filters(16, 1.2) == 24  # 19.2 is nearest to 16, which would lose 17%
    assert round_filters(80, 1.1) == 88
    assert round_filters(10, 1.5, divisor=10) == 20


def test_without_a_share_to_keep_rounding_goes_to_the_nearest() -> None:
    assert round_filters(16, 1.2, keep=0.0) == 16


def test_repeats_round_up() -> None:
    assert round_repeats(3, 1.01) == 4


def test_repeats_that_floating_point_lifts_over_a_whole_number_do_not_round_up() -> None:
    assert 2.2 * 25 > 55
    assert round_repeats(25, 2.2) == 55


def test_the_rule_raises_its_constants_to_phi() -> None:
    assert compound_scale(2) == Scale(1.2**2, 1.1**2, 1.15**2)
    assert compound_scale(0) == Scale(1.0, 1.0, 1.0)
    half = compound_scale(0.5, 1.3, 1.1, 1.12)
    assert (half.depth**2, half.width**2, half.resolution**2) == pytest.approx((1.3, 1.1, 1.12))
    assert compound_scale(3).flops_factor == pytest.approx((1.2 * 1.1**2 * 1.15**2) ** 3)
    # 224 px at the phi of b1 to b7.
    pixels = [compound_scale(phi).pixels(224) for phi in (0.5, 1, 2, 3, 4, 5, 6)]
    assert pixels == [240, 258, 296, 341, 392, 451, 518]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1.5), r"alpha \* beta\^2 \* gamma\^2 is 2\.4 \(allowed: 1\.9 to 2\.1; the paper's .* give 1\.92\)"),
        ((1, 0.9, 1.2, 1.3), r"alpha=0\.9, beta=1\.2, gamma=1\.3 \(allowed: at least 1 each\)"),
        ((20,), r"phi=20: depth coefficient 38\.\d+ \(allowed: 0\.1 to 10\)"),
        ((float("nan"),), r"phi=nan \(allowed: "),
        ((float("inf"),), r"phi=inf \(allowed: "),
    ],
)
def test_a_rule_that_is_none_is_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compound_scale(*arguments)


@pytest.mark.parametrize(
    ("name", "canonical", "depth", "width", "resolution"),
    [
        ("b0@phi=1", "b0@phi=1", 1.2, 1.1, 258),
        ("EfficientNet_B0@PHI=1.50", "b0@phi=1.5", 1.2**1.5, 1.1**1.5, 276),
        ("b0@d=1.2, w=1.1 ,r=1.15", "b0@d=1.2,w=1.1,r=1.15", 1.2, 1.1, 258),
        ("b0@w=2.0,d=1", "b0@w=2", 1.0, 2.0, 224),
        ("b0@phi=-1", "b0@phi=-1", 1 / 1.2, 1 / 1.1, 195),
        ("b0@phi=2,alpha=1.3,gamma=1.1,beta=1.1", "b0@phi=2,alpha=1.3,beta=1.1,gamma=1.1", 1.69, 1.21, 271),
        ("b2@w=1.1", "b2@w=1.1", 1.2, 1.21, 260),
        ("v2_s@r=0.5", "v2-s@r=0.5", 1.0, 1.0, 192),
        ("mobilenet_v1@w=0.5", "mobilenet-v1@w=0.5", 1.0, 0.5, 224),
        ("b0@phi=0", "b0", 1.0, 1.0, 224),
        ("b0@d=1,w=1,r=1", "b0", 1.0, 1.0, 224),
    ],
)
def test_a_name_says_how_a_backbone_is_scaled(
    name: str, canonical: str, depth: float, width: float, resolution: int
) -> None:
    variant = get_backbone(name)
    assert variant.name == canonical
    assert (variant.depth_coefficient, variant.width_coefficient) == pytest.approx((depth, width))
    assert variant.resolution == resolution
    assert get_backbone(canonical) == variant


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "b0@",
            r"backbone b0@: '' is not KEY=NUMBER \(write BASELINE@phi=1\.5 .*, or BASELINE@d=1\.2,w=1\.1,r=1\.15\)",
        ),
        ("b0@phi=big", "'phi=big' is not KEY=NUMBER"),
        ("b0@1.5", r"'1\.5' is not KEY=NUMBER"),
        ("b0@phi=1@d=2", "'phi=1@d=2' is not KEY=NUMBER"),
        ("b0@phi=1,d=2", "phi and d do not define a scale"),
        ("b0@alpha=1.2", "alpha do not define a scale"),
        ("b0@depth=2", "depth do not define a scale"),
        ("b0@d=2,d=3", "d is given twice"),
        ("b0@d=0", r"depth coefficient 0 \(allowed: 0\.1 to 10\)"),
        ("b0@r=-1", r"resolution coefficient -1 \(allowed"),
        ("b0@w=nan", r"width coefficient nan \(allowed"),
        ("b0@phi=14", r"backbone b0@phi=14: phi=14: depth coefficient 12\.8"),
        ("b0@phi=1,alpha=2", r"alpha \* beta\^2 \* gamma\^2 is 3\.2"),
        ("b9@phi=1", "unknown backbone 'b9'; did you mean"),
    ],
)
def test_a_name_that_cannot_be_read_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_backbone(name)


def test_scaling_in_python_gives_the_same_variants_as_the_names() -> None:
    b0 = get_backbone("b0")
    assert scale(b0, 1.2, 1.1, 1.15) == get_backbone("b0@d=1.2,w=1.1,r=1.15")
    assert scale_phi(b0, 1.5) == get_backbone("b0@phi=1.5")
    assert scale(b0) is b0
    third = scale_phi(b0, 1 / 3)
    assert get_backbone(third.name) == third
    with pytest.raises(UserError, match="b0@phi=1 is scaled already"):
        scale(get_backbone("b0@phi=1"), 2.0)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "b0"])
def test_scaled_by_the_released_coefficients_b0_is_the_released_network(name: str) -> None:
    width, depth, stem, channels, repeats, top = PUBLISHED[name]
    variant = get_backbone(f"b0@d={depth},w={width}")
    assert (variant.stem_channels, variant.num_features) == (stem, top)
    assert tuple(row.out_channels for row in variant.stages) == channels
    assert tuple(row.repeats for row in variant.stages) == repeats
    assert variant.stages == get_backbone(name).stages


def test_of_a_bottleneck_the_inner_channels_are_rounded() -> None:
    assert [row.out_channels for row in get_backbone("resnet50@w=1.2").stages] == [320, 608, 1216, 2464]


# By hand: 0.5^-0.07 = 1.049717, 2^-0.07 = 0.952638, 10^-0.07 = 0.851138.
@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ((0.76, 400e6), 0.76),
        ((0.76, 800e6), 0.724005),
        ((0.76, 200e6), 0.797785),
        ((0.771, 385_814_752), 0.772951),  # b0, Table 2
        ((0.5, 4e9), 0.425569),
        ((0.5, 2e9, 1e9, -1.0), 0.25),
        ((0.5, 2e9, 1e9, 0.0), 0.5),
        ((0, 1), 0.0),
    ],
)
def test_the_search_objective_weighs_accuracy_against_multiply_adds(arguments: tuple[float, ...], value: float) -> None:
    assert search_objective(*arguments) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((77.1, 4e8), r"search objective: accuracy 77\.1 \(allowed: 0 to 1\)"),
        ((-0.1, 4e8), r"accuracy -0\.1"),
        ((float("nan"), 4e8), "accuracy nan"),
        ((0.7, 0), r"macs 0 \(allowed: above 0\)"),
        ((0.7, float("inf")), "macs inf"),
        ((0.7, 4e8, -1), r"target -1 \(allowed: above 0\)"),
        ((0.7, 4e8, 4e8, 0.07), r"exponent 0\.07 \(allowed: at most 0\)"),
        ((0.7, 4e8, 4e8, float("nan")), "exponent nan"),
    ],
)
def test_a_search_objective_that_is_none_is_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        search_objective(*arguments)
