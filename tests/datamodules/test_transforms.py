"""Resizing equals plain Pillow to the bit; augmentation is a function of its seed."""

from __future__ import annotations

import math
from dataclasses import replace

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images.ops import AUGMENT_OPS, build_op
from datamodules.images.transforms import (
    AUGMENTS,
    build_eval_transform,
    build_train_transform,
    kept_part,
    normalize,
    seed_transform,
)
from transfer.errors import UserError
from transfer.preprocessing import IMAGENET, Preprocessing


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prepared(
    size: int = 64, ratio: float = 0.875, interpolation: str = "bicubic", resize: str = "short_side"
) -> Preprocessing:
    return Preprocessing(size, ratio, interpolation, *IMAGENET, resize)


def pillow_reference(pixels: np.ndarray, size: int, ratio: float, resample: int) -> np.ndarray:
    """Written by hand from torchvision's Resize(int) and CenterCrop."""
    short = math.floor(size / ratio)
    height, width = pixels.shape[:2]
    if width <= height:
        new_width, new_height = short, int(short * height / width)
    else:
        new_width, new_height = int(short * width / height), short
    image = Image.fromarray(pixels).resize((new_width, new_height), resample)
    top, left = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    return np.asarray(image)[top : top + size, left : left + size]


@pytest.mark.parametrize("shape", [(40, 60), (61, 47), (333, 500), (32, 32), (9, 10), (224, 224), (255, 256)])
@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("ratio", [0.875, 0.904, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_eval_equals_pillow(shape: tuple[int, int], size: int, ratio: float, interpolation: str) -> None:
    pixels = noise(*shape)
    result = build_eval_transform(prepared(size, ratio, interpolation))(image=pixels)["image"]
    resample = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[interpolation]
    assert result.shape == (size, size, 3) and result.dtype == np.uint8
    assert np.array_equal(result, pillow_reference(pixels, size, ratio, resample))


@pytest.mark.parametrize("shape", [(40, 60), (9, 10), (333, 500)])
@pytest.mark.parametrize("ratio", [0.9, 1.0])
def test_squash_resizes_both_sides_then_crops(shape: tuple[int, int], ratio: float) -> None:
    pixels = noise(*shape)
    result = build_eval_transform(prepared(64, ratio, "bicubic", "squash"))(image=pixels)["image"]
    side = math.floor(64 / ratio)
    edge = round((side - 64) / 2)
    resized = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
    assert np.array_equal(result, resized[edge : edge + 64, edge : edge + 64])


@pytest.mark.parametrize("resize", ["short_side", "squash"])
@pytest.mark.parametrize("shape", [(300, 400), (500, 211), (40, 40)])
def test_the_kept_part_is_where_the_networks_pixels_come_from(shape: tuple[int, int], resize: str) -> None:
    height, width = shape
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    pixels = np.stack([*np.broadcast_arrays(255 * x, 255 * y[:, None]), np.zeros(shape)], -1).round().astype(np.uint8)
    transform = build_eval_transform(prepared(64, 0.75, "bilinear", resize))
    left, top, right, bottom = kept_part(transform, height, width)
    seen = transform(image=pixels)["image"] / 255
    inner = (np.arange(4, 60) + 0.5) / 64
    np.testing.assert_allclose(seen[30, 4:60, 0], left + (right - left) * inner, atol=0.006)
    np.testing.assert_allclose(seen[4:60, 30, 1], top + (bottom - top) * inner, atol=0.006)
    assert right - left == pytest.approx(0.75 * (min(height / width, 1) if resize == "short_side" else 1), abs=0.01)


def test_augment_none_squashes_as_evaluation_does() -> None:
    pixels = noise(80, 100)
    expected = build_eval_transform(prepared(64, 0.9, "bicubic", "squash"))(image=pixels)["image"]
    transform = build_train_transform(prepared(64, 0.9, resize="squash"), "none")
    assert np.array_equal(transform(image=pixels)["image"], expected)


def train_transform(augment: str, size: int = 64) -> A.Compose:
    return build_train_transform(prepared(size), augment)


def test_augment_none_is_the_eval_pipeline() -> None:
    pixels = noise(80, 100)
    expected = build_eval_transform(prepared(64, 0.875, "bicubic"))(image=pixels)["image"]
    assert np.array_equal(train_transform("none")(image=pixels)["image"], expected)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_augmentation_depends_on_the_seed_alone(augment: str) -> None:
    pixels = noise(80, 100)
    first, second = train_transform(augment), train_transform(augment)
    second(image=pixels)
    results = []
    for seed in (7, 8):
        seed_transform(first, seed)
        seed_transform(second, seed)
        results.append(first(image=pixels)["image"])
        assert np.array_equal(results[-1], second(image=pixels)["image"])
        assert results[-1].shape == (64, 64, 3) and results[-1].dtype == np.uint8
    assert np.array_equal(*results) == (augment == "none")


def test_flip_is_independent_of_the_crop() -> None:
    # A horizontal ramp: its direction tells the flip, its range how much of the width the crop kept.
    ramp = np.repeat(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    transform = train_transform("basic", 32)
    flipped, widths = [], []
    for seed in range(400):
        seed_transform(transform, seed * 1000)
        row = transform(image=np.ascontiguousarray(ramp))["image"][0, :, 0].astype(int)
        flipped.append(row[0] > row[-1])
        widths.append(abs(row[0] - row[-1]))
    assert 0.4 < np.mean(flipped) < 0.6
    assert abs(np.corrcoef(flipped, widths)[0, 1]) < 0.15


def drawn(count: int = 400, **options: object) -> list[np.ndarray]:
    """The whole of one image, augmented with many seeds."""
    transform = build_train_transform(prepared(32), "basic", (1.0, 1.0), False, **options)
    pixels, results = noise(32, 32), []
    for seed in range(count):
        seed_transform(transform, seed)
        results.append(transform(image=pixels)["image"])
    return results


def shares(results: list[np.ndarray], expected: list[np.ndarray]) -> list[float]:
    """How often each expected image came out; it must be one of them."""
    counts = [sum(np.array_equal(result, image) for result in results) for image in expected]
    assert sum(counts) == len(results)
    return [count / len(results) for count in counts]


def test_vertical_flips_and_quarter_turns_give_each_view_its_share() -> None:
    plain = drawn(1)[0]
    assert all(np.array_equal(result, plain) for result in drawn(50))
    assert shares(drawn(vertical_flip=True), [plain, plain[::-1]]) == pytest.approx([0.5, 0.5], abs=0.1)
    turned = [np.rot90(plain, turns) for turns in range(4)]
    assert shares(drawn(quarter_turns=True), turned) == pytest.approx([0.25] * 4, abs=0.08)
    flipped = [np.rot90(plain[::-1], turns) for turns in range(4)]
    both = shares(drawn(vertical_flip=True, quarter_turns=True), [*turned, *flipped])
    assert both == pytest.approx([0.125] * 8, abs=0.07)


def test_color_jitter_changes_colours_and_is_repeatable() -> None:
    plain = drawn(1)[0].astype(float)
    weak, strong = ([image.astype(float) for image in drawn(100, color_jitter=s)] for s in (0.1, 0.8))
    for results, smallest, largest in ((weak, 1, 15), (strong, 20, 100)):
        assert smallest < np.mean([np.abs(image - plain).mean() for image in results]) < largest
        brightness = [image.mean() / plain.mean() for image in results]
        assert min(brightness) < 1 < max(brightness)
    assert all(0.85 < image.mean() / plain.mean() < 1.15 for image in weak)
    assert all(np.array_equal(*pair) for pair in zip(strong, drawn(100, color_jitter=0.8), strict=True))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"augment": "basic", "color_jitter": 1.5}, "`color_jitter`=1.5"),
        ({"augment": "none", "color_jitter": 0.4}, "`color_jitter`=0.4 with `augment`=none"),
        ({"augment": "none", "vertical_flip": True}, "`vertical_flip`=True with `augment`=none"),
        ({"augment": "none", "quarter_turns": True}, "`quarter_turns`=True with `augment`=none"),
    ],
)
def test_augmentations_out_of_range_or_without_effect_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build_train_transform(prepared(32), **options)


def test_no_flip_for_digits() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    transform = build_train_transform(prepared(32, 1.0), "basic", (0.5, 1.0), horizontal_flip=False)
    for seed in range(40):
        seed_transform(transform, seed)
        row = transform(image=np.ascontiguousarray(ramp))["image"][0, :, 0].astype(int)
        assert row[0] < row[-1]


def test_crop_scale_bounds_the_kept_area() -> None:
    column = np.arange(200, dtype=np.uint8)
    grid = np.stack([*np.meshgrid(column, column), np.zeros((200, 200), np.uint8)], axis=-1)
    transform = build_train_transform(prepared(64, 1.0, "bilinear"), "basic", (0.5, 1.0), horizontal_flip=False)
    for seed in range(50):
        seed_transform(transform, seed)
        crop = transform(image=grid)["image"].astype(int)
        area = np.ptp(crop[..., 0]) * np.ptp(crop[..., 1]) / 199**2
        assert 0.45 < area <= 1.0


def test_cutout_is_one_mean_square_of_half_the_side() -> None:
    transform = build_train_transform(replace(prepared(64, 1.0), mean=(0.2, 0.4, 0.6)), "cutout")
    seed_transform(transform, 3)
    result = transform(image=np.full((64, 64, 3), 255, np.uint8))["image"]
    hole = (result == [51, 102, 153]).all(axis=-1)
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    assert hole.sum() == 32 * 32 and len(rows) == len(columns) == 32


@pytest.mark.parametrize("name", AUGMENT_OPS)
def test_every_op_is_deterministic_and_does_something(name: str) -> None:
    pixels = (noise(48, 48) // 2) + 32
    op = build_op(name, 0.9)
    assert np.array_equal(op(image=pixels)["image"], op(image=pixels)["image"])
    assert op(image=pixels)["image"].shape == pixels.shape
    assert np.array_equal(op(image=pixels)["image"], pixels) == (name == "identity")


@pytest.mark.parametrize("name", [name for name, (signed, _) in AUGMENT_OPS.items() if signed])
def test_signed_ops_go_both_ways_and_vanish_at_zero(name: str) -> None:
    pixels = noise(48, 48)
    assert not np.array_equal(build_op(name, 0.5)(image=pixels)["image"], build_op(name, -0.5)(image=pixels)["image"])
    difference = build_op(name, 0.0)(image=pixels)["image"].astype(int) - pixels
    assert np.abs(difference).max() <= 1


def test_translate_and_rotate_ranges() -> None:
    pixels = np.zeros((331, 331, 3), np.uint8)
    pixels[165, 100] = 255
    moved = build_op("translate_x", 1.0)(image=pixels)["image"]
    assert np.argwhere(moved[165, :, 0] > 200).ravel().tolist() == [250]
    assert build_op("rotate", 1.0).rotate == (30.0, 30.0)


def test_normalize_equals_the_formula_and_is_channels_last() -> None:
    images = torch.from_numpy(np.stack([noise(6, 5), noise(6, 5)]))
    result = normalize(images, prepared())
    (mean, std), scaled = IMAGENET, images.permute(0, 3, 1, 2).double() / 255
    expected = (scaled - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.uint8


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="unknown augment 'randaug'; did you mean 'randaugment'"):
        train_transform("randaug")
    with pytest.raises(UserError, match="unknown interpolation 'cubic'; did you mean 'bicubic'"):
        build_eval_transform(prepared(64, 0.875, "cubic"))
    with pytest.raises(UserError, match=r"`image_size`=31 is too small: .* at least 32"):
        build_eval_transform(prepared(31, 0.875, "bicubic"))
    with pytest.raises(UserError, match=r"`crop_ratio`=1.5 is out of range"):
        build_eval_transform(prepared(64, 1.5, "bicubic"))
    with pytest.raises(UserError, match="unknown resize 'squish'; did you mean 'squash'"):
        build_eval_transform(prepared(64, 1.0, "bicubic", "squish"))
