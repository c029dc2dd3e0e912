"""Transforms of the user's own: with and without a cache, repeatable, normalised once or refused by name."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import build_datamodule
from datamodules.datamodule import DataModule
from tests.support.data import PREPROCESSING
from transfer.errors import UserError

MEAN, STD = PREPROCESSING.mean, PREPROCESSING.std
SIZE = PREPROCESSING.image_size


def crop(pixels: np.ndarray) -> np.ndarray:
    """The upper left corner, a view."""
    return pixels[:SIZE, :SIZE]


def random_corner(pixels: np.ndarray) -> np.ndarray:
    """A crop drawn from all three generators, mirrored."""
    top, left = random.randrange(pixels.shape[0] - SIZE + 1), np.random.randint(pixels.shape[1] - SIZE + 1)
    image = pixels[top : top + SIZE, left : left + SIZE]
    return image[:, ::-1] if torch.rand(()) < 0.5 else image


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(crop(pixels))).permute(2, 0, 1)


def normalized(pixels: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (to_tensor(pixels) / 255 - mean) / std


def to_pil(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(crop(pixels))


ALBUMENTATIONS = A.Compose([A.RandomCrop(SIZE, SIZE), A.HorizontalFlip(), A.OneOf([A.Rotate(), A.InvertImg()])])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(24):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (34, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def build(photos: Path, **options: Any) -> DataModule:
    defaults: dict[str, Any] = {"data_root": photos, "batch_size": 8, "num_workers": 0, "val_fraction": 0.25}
    options = {"cache_dir": photos.parent / "cache", **defaults, **options}
    return build_datamodule("folder", preprocessing=PREPROCESSING, **options)


def batches(loader: Any) -> torch.Tensor:
    return torch.cat([images for images, _ in loader])


def expected_crops(data: DataModule, split: str = "val") -> torch.Tensor:
    images = [
        np.asarray(Image.open(data.dataset.split(split).encoded(i))) for i in range(data.dataset.split_sizes[split])
    ]
    return torch.from_numpy(np.stack([crop(image) for image in images]))


@pytest.mark.parametrize("cache", ["none", "disk", "ram"])
@pytest.mark.parametrize("transform", [crop, to_tensor, to_pil, A.Crop(0, 0, SIZE, SIZE)])
def test_uint8_of_any_kind_is_normalised_later(photos: Path, transform: Callable[..., Any], cache: str) -> None:
    data = build(photos, eval_transform=transform, cache=cache)
    images = batches(data.val_dataloader())
    # These photos are smaller than what evaluation resizes to, so they are cached as they are.
    assert images.dtype == torch.uint8 and torch.equal(images, expected_crops(data))
    ready, _ = data.on_after_batch_transfer((images, torch.zeros(1)), 0)
    torch.testing.assert_close(ready[0], normalized(images[0].numpy()))


@pytest.mark.parametrize("cache", ["none", "disk"])
@pytest.mark.parametrize(
    "transform",
    [
        normalized,
        lambda pixels: normalized(pixels).double().permute(1, 2, 0).numpy(),
        A.Compose([A.Crop(0, 0, SIZE, SIZE), A.Normalize(MEAN, STD)]),
        A.Compose([A.Crop(0, 0, SIZE, SIZE), A.Normalize(MEAN, STD), A.ToTensorV2()]),
    ],
)
def test_floats_are_not_normalised_again(photos: Path, transform: Callable[..., Any], cache: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = build(photos, eval_transform=transform, train_transform=transform, cache=cache)
    images = batches(data.val_dataloader())
    ready, _ = data.on_after_batch_transfer((images, torch.zeros(1)), 0)
    expected = torch.stack([normalized(image.numpy()) for image in expected_crops(data)])
    assert ready.dtype == torch.float32 and ready.shape[1:] == (3, SIZE, SIZE)
    torch.testing.assert_close(ready, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cache", ["none", "disk"])
@pytest.mark.parametrize("transform", [random_corner, ALBUMENTATIONS, A.RandomCrop(SIZE, SIZE)])
def test_random_transforms_depend_on_seed_epoch_and_image_only(
    photos: Path, transform: Callable[..., Any], cache: str
) -> None:
    def run(**options: Any) -> list[torch.Tensor]:
        loader = build(photos, train_transform=transform, cache=cache, **options).train_dataloader()
        epochs = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            epochs.append(batches(loader))
        return epochs

    random.seed(5)
    first = run()
    assert random.random() == random.Random(5).random()  # the main process's own draws are left alone
    again = run(num_workers=2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], run(seed=1)[0])


def test_the_steps_of_a_compose_draw_independently(photos: Path) -> None:
    steps = A.Compose([A.Crop(0, 0, SIZE, SIZE), A.HorizontalFlip(), A.InvertImg()])
    data = build(photos, train_transform=steps)
    transform: Any = data.train_transform
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:, : SIZE // 2] = 100
    seen = set()
    for seed in range(40):
        transform.set_seed(1000 * seed)
        image = transform(pixels)
        seen.add((image[0, 0, 0].item() in (0, 255), image.max().item() == 255))
    assert len(seen) == 4


def test_an_own_evaluation_gives_the_same_images_in_every_order(photos: Path) -> None:
    dataset: Any = build(photos, eval_transform=random_corner).val_dataloader().dataset
    order = [0, 3, 1, 3]
    images = [dataset[index][0] for index in order]
    assert torch.equal(images[1], images[3]) and torch.equal(images[0], dataset[0][0])


def test_the_cache_hands_over_the_resized_image(tmp_path: Path) -> None:
    for index in range(24):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (120, 90), (index, 0, 0)).save(path)
    shapes = []

    def spy(pixels: np.ndarray) -> np.ndarray:
        shapes.append(pixels.shape)
        return crop(pixels)

    for cache, expected in (("none", (90, 120, 3)), ("disk", (36, 48, 3))):
        data = build(tmp_path / "photos", eval_transform=spy, train_transform=spy, cache=cache)
        shapes.clear()
        batches(data.val_dataloader()), batches(data.train_dataloader()), batches(data.calibration_dataloader())
        assert set(shapes) == {expected}


SHAPE = re.escape(f"(allowed: a uint8 or floating-point array ({SIZE}, {SIZE}, 3) or tensor (3, {SIZE}, {SIZE}))")


@pytest.mark.parametrize("argument", ["train_transform", "eval_transform"])
@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda p: to_tensor(p) / 255, r"returns floats in 0\.\.1, which do not look normalised: .* Normalize\(mean="),
        (lambda p: to_tensor(p).float(), r"returns floats in 0\.\.255, which do not look normalised"),
        (A.Compose([A.ToFloat()]), r"returns floats in 0\.\.1, which do not look normalised"),
        (lambda p: crop(p).astype(np.int64), rf"returned torch.int64 values {SHAPE}"),
        (
            lambda p: crop(p)[:-1],
            rf"returned an image of shape \(31, 32, 3\), and `image_size` is 32: .* set `image_size` {SHAPE}",
        ),
        (A.Resize(48, 48), r"returned an image of shape \(48, 48, 3\), and `image_size` is 32"),
        (lambda p: crop(p)[..., 0], r"returned an image of shape \(32, 32\)"),
        (lambda p: {"image": p}, rf"returned dict {SHAPE}"),
        (lambda p: p.missing, r"failed on a uint8 \(32, 32, 3\) image: .*missing"),
        ("basic", r"='basic' cannot be called; give an Albumentations or torchvision transform"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(photos: Path, argument: str, transform: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^`{argument}`(| ){message}"):
        build(photos, **{argument: transform})


def test_images_that_keep_their_size_are_refused_while_loading(photos: Path) -> None:
    data = build(photos, train_transform=A.HorizontalFlip(), num_workers=1)
    with pytest.raises(UserError, match=r"^`train_transform` returned an image of shape \(34, 36, 3\)"):
        list(data.train_dataloader())


@pytest.mark.parametrize("argument", ["train_transform", "eval_transform"])
@pytest.mark.parametrize("half", [0.5, 0.4])
def test_another_normalisation_than_the_networks_is_told(photos: Path, argument: str, half: float) -> None:
    other = A.Compose([A.RandomCrop(SIZE, SIZE), A.Normalize((half,) * 3, (half,) * 3)])
    message = r"`%s` normalises in another way .*black becomes \(-1\.0, -1\.0, -1\.0\), white \(%.1f,"
    with pytest.warns(UserWarning, match=message % (argument, 1 / half - 1)):
        build(photos, **{argument: other})


def test_random_colours_and_erased_parts_are_no_other_normalisation(photos: Path) -> None:
    def noisy(pixels: np.ndarray) -> torch.Tensor:
        image = normalized((pixels * random.uniform(0.7, 1.0)).astype(np.uint8))
        image[:, :10, :10] = 5 * torch.randn(3, 10, 10)
        return image

    jitter = A.Compose(
        [A.RandomCrop(SIZE, SIZE), A.ColorJitter(p=1.0), A.RandomBrightnessContrast(), A.Normalize(MEAN, STD)]
    )
    for transform in (noisy, jitter):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            build(photos, train_transform=transform)


def test_a_network_of_grey_images_gets_one_channel(photos: Path) -> None:
    grey = replace(PREPROCESSING, mean=(0.5,), std=(0.25,))

    def run(transform: Callable[..., Any]) -> tuple[DataModule, torch.Tensor]:
        data = build_datamodule("folder", preprocessing=grey, data_root=photos, num_workers=0, eval_transform=transform)
        return data, batches(data.val_dataloader())

    data, images = run(lambda pixels: crop(pixels)[..., :1])
    assert images.shape[1:] == (SIZE, SIZE, 1)
    flat, tensor = run(lambda pixels: crop(pixels)[..., 0])[1], run(lambda pixels: to_tensor(pixels)[:1])[1]
    picture = run(lambda pixels: Image.fromarray(crop(pixels)[..., 0]))[1]
    assert torch.equal(flat, images) and torch.equal(tensor, images) and torch.equal(picture, images)
    normalised = run(lambda pixels: (to_tensor(pixels)[:1] / 255 - 0.5) / 0.25)[1]
    torch.testing.assert_close(data.normalize(images), normalised)
    with pytest.raises(UserError, match=r"shape \(32, 32, 3\), .*array \(32, 32, 1\)"):
        run(crop)


def test_torchvision_gets_a_pil_image(photos: Path) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2", exc_type=ImportError)
    uint8 = v2.Compose([v2.CenterCrop(SIZE), v2.ToImage()])
    floats = v2.Compose([uint8, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    plain = batches(build(photos, eval_transform=uint8).val_dataloader())
    data = build(photos, eval_transform=floats, train_transform=torch.nn.Sequential(v2.RandomCrop(SIZE), v2.ToImage()))
    assert plain.dtype == torch.uint8
    torch.testing.assert_close(batches(data.val_dataloader()), data.normalize(plain), atol=1e-5, rtol=0)
    assert torch.equal(batches(data.train_dataloader()), batches(data.train_dataloader()))
