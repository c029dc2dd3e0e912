"""AutoAugment's tables, and what its operations do at each level against Pillow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from datamodules import build_datamodule, get_sheet, list_datasets
from datamodules.images.autoaugment import POLICIES, AutoAugment, op_strength
from datamodules.images.ops import AUGMENT_OPS, RandomOps, build_op
from tests.support.data import PREPROCESSING
from transfer.errors import UserError

LEVELS = range(10)


def noise(height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_25_pairs_of_known_operations(policy: str) -> None:
    assert len(POLICIES[policy]) == 25
    for pair in POLICIES[policy]:
        assert len(pair) == 2
        for name, probability, level in pair:
            assert name in AUGMENT_OPS and level in LEVELS
            assert probability in [tenth / 10 for tenth in range(11)]


def test_the_tables_are_the_published_ones() -> None:
    """How often each operation stands in the two tables, counted in torchvision's."""
    counts = {policy: Counter(name for pair in rows for name, _, _ in pair) for policy, rows in POLICIES.items()}
    assert counts["imagenet"] == {
        "equalize": 17, "solarize": 7, "rotate": 6, "color": 6, "posterize": 5, "invert": 3, "autocontrast": 2,
        "contrast": 2, "sharpness": 1, "shear_x": 1,
    }  # fmt: skip
    assert counts["cifar10"] == {
        "equalize": 9, "autocontrast": 7, "translate_y": 5, "sharpness": 5, "color": 5, "brightness": 4, "solarize": 4,
        "invert": 3, "contrast": 2, "translate_x": 2, "shear_y": 2, "rotate": 1, "posterize": 1,
    }  # fmt: skip


def pillow(function: Callable[[Image.Image], Image.Image], pixels: np.ndarray) -> np.ndarray:
    return np.asarray(function(Image.fromarray(pixels))).astype(int)


def at_level(name: str, level: int, pixels: np.ndarray) -> np.ndarray:
    return build_op(name, op_strength(name, level))(image=pixels)["image"].astype(int)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("name", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("color", ImageEnhance.Color),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_a_factor_runs_from_a_tenth_to_1_9(name: str, enhancer: type, level: int) -> None:
    pixels = noise()
    expected = pillow(lambda image: enhancer(image).enhance(0.1 + 1.8 * level / 10), pixels)
    assert np.abs(at_level(name, level, pixels) - expected).max() <= 2  # they round otherwise


@pytest.mark.parametrize("level", LEVELS)
def test_posterize_keeps_four_to_eight_bits(level: int) -> None:
    expected = pillow(lambda image: ImageOps.posterize(image, 4 + round(0.4 * level)), noise())
    assert np.array_equal(at_level("posterize", level, noise()), expected)


@pytest.mark.parametrize("level", LEVELS)
def test_solarize_inverts_above_tenths_of_256(level: int) -> None:
    pixels, threshold = noise(), 256 * level / 10
    clear = np.abs(pixels - threshold) > 1
    expected = pillow(lambda image: ImageOps.solarize(image, int(threshold)), pixels)
    assert np.array_equal(at_level("solarize", level, pixels)[clear], expected[clear])


def test_operations_without_a_level_are_pillows() -> None:
    pixels = noise() // 2 + 30
    for name, function in (("invert", ImageOps.invert), ("autocontrast", ImageOps.autocontrast)):
        assert np.abs(at_level(name, 0, pixels) - pillow(function, pixels)).max() <= 1
    # They round the steps of the staircase otherwise.
    assert np.abs(at_level("equalize", 0, pixels) - pillow(ImageOps.equalize, pixels)).max() <= 4


@pytest.mark.parametrize(
    ("name", "level", "matrix"),
    [
        ("shear_x", 5, (1, 0.15, 0, 0, 1, 0)),
        ("shear_y", 9, (1, 0, 0, 0.27, 1, 0)),
        ("translate_x", 8, (1, 0, 0.8 * 150, 0, 1, 0)),
        ("translate_y", 3, (1, 0, 0, 0, 1, 0.3 * 150)),
    ],
)
def test_geometry_reaches_as_far_as_pillows(name: str, level: int, matrix: tuple[float, ...]) -> None:
    """A disc in the middle of 331 pixels, the size of the paper's ranges, has the same size and place, or mirrored."""
    ys, xs = np.mgrid[:331, :331] - 165
    disc = ((ys**2 + xs**2 < 40**2) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    # Pillow's matrix starts at the corner; this one keeps the centre where it is, but for shifts.
    a, b, c, d, e, f = matrix
    centred = (a, b, c - 165 * (a - 1) - 165 * b, d, e, f - 165 * d - 165 * (e - 1))
    image = Image.fromarray(disc)
    expected = np.asarray(image.transform(image.size, Image.Transform.AFFINE, centred))[..., 0] > 128
    found = build_op(name, op_strength(name, level))(image=disc)["image"][..., 0] > 200
    mirrored = expected[::-1, ::-1] if name.startswith("translate") else expected[:, ::-1]
    overlap = max((found & other).sum() / (found | other).sum() for other in (expected, mirrored))
    assert overlap > 0.95


def test_rotate_turns_by_tenths_of_30_degrees() -> None:
    assert build_op("rotate", op_strength("rotate", 9)).rotate == (27.0, 27.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_sub_policies_are_drawn_uniformly_and_their_operations_with_their_probability(policy: str) -> None:
    transform = AutoAugment(policy)
    drawn, expected, signs = Counter[str](), Counter[str](), Counter[tuple[str, bool]]()
    num_draws = 6000
    for seed in range(num_draws):
        transform.set_random_seed(seed)
        for name, strength in transform.get_params()["ops"]:
            drawn[name] += 1
            signs[name, strength < 0] += 1
    for pair in POLICIES[policy]:
        for name, probability, _ in pair:
            expected[name] += probability / 25
    for name in AUGMENT_OPS:
        assert drawn[name] / num_draws == pytest.approx(expected[name], abs=0.03), name
    for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        if drawn[name] > 200:
            assert signs[name, True] / drawn[name] == pytest.approx(0.5, abs=0.1), name
    assert signs["posterize", True] == signs["solarize", True] == 0


def test_an_image_keeps_its_shape_and_a_seed_gives_the_same_image() -> None:
    transform, pixels = AutoAugment("imagenet"), noise()
    results = []
    for seed in (3, 3, 4, 5, 6):
        transform.set_random_seed(seed)
        results.append(transform(image=pixels)["image"])
        assert results[-1].shape == pixels.shape and results[-1].dtype == np.uint8
    assert np.array_equal(results[0], results[1])
    assert any(not np.array_equal(results[0], other) for other in results[2:])


def test_randaugment_never_inverts() -> None:
    transform = RandomOps(2, (0.3,))
    names = {name for _ in range(400) for name, _ in transform.get_params()["ops"]}
    assert names == set(AUGMENT_OPS) - {"invert"}


def test_cifar_has_its_own_policy_and_the_others_imagenets() -> None:
    policies = {name: get_sheet(name).augment_policy for name in list_datasets()}
    assert {name for name, policy in policies.items() if policy == "cifar10"} == {"cifar10", "cifar100"}
    for name, policy in policies.items():
        data = build_datamodule(
            name,
            preprocessing=PREPROCESSING,
            augment="autoaugment",
            data_root=".",
            multilabel=get_sheet(name).multilabel,
        )
        *_, step = data.train_transform.transforms
        assert step.policy == policy


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UserError, match="unknown AutoAugment policy 'cifar'; did you mean 'cifar10'"):
        AutoAugment("cifar")
