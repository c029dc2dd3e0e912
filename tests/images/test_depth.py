"""Images of more than 8 bits: their range is that of the dataset, said, and kept with the network."""

from __future__ import annotations

import io
import json
import math
import warnings
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import build_datamodule, load_dataset
from transfer.errors import BadValue, DamagedFile, UserError
from transfer.images.decode import BadImageError, decode_image
from transfer.images.depth import Decoding, Extent
from transfer.images.prepare import read_preprocessing
from transfer.preprocessing import IMAGENET, Preprocessing

PREPROCESSING = Preprocessing(32, 1.0, "bicubic", *IMAGENET)


def save_classes(root: Path, arrays: list[np.ndarray]) -> Path:
    """Two classes with half of the arrays each, as TIFF; the last two are val."""
    for number, array in enumerate(arrays):
        folder = root / ("val" if number >= len(arrays) - 2 else "train") / ("across" if number % 2 else "along")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{number}.tif")
    return root


def pixels_of(root: Path, **options: object) -> list[np.ndarray]:
    data = build_datamodule("folder", data_root=root, preprocessing=PREPROCESSING, num_workers=0, **options)
    return [data.eval_dataloader("train").dataset[index][0].numpy() for index in range(4)]


def ramps(dtype: str, top: float) -> list[np.ndarray]:
    """Ramps of 32 x 32 from black to a share of `top`, no two the same."""
    return [(np.linspace(0, 1 - number / 100, 1024).reshape(32, 32) * top).astype(dtype) for number in range(12)]


@pytest.mark.parametrize(
    ("dtype", "top"),
    [("uint16", 4095), ("uint16", 16383), ("uint16", 65535), ("int32", 1_000_000), ("float32", 1), ("float32", 255)],
)
def test_deep_images_become_what_the_same_images_of_8_bits_are(tmp_path: Path, dtype: str, top: int) -> None:
    white = {1_000_000: 2**20 - 1}.get(top, top)
    deep = save_classes(tmp_path / "deep", ramps(dtype, top))
    flat = save_classes(tmp_path / "flat", [(a / white * 255).round().astype(np.uint8) for a in ramps(dtype, top)])
    for ours, theirs in zip(pixels_of(deep), pixels_of(flat), strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 1 and theirs.max() > 200


def test_values_of_a_known_range_below_zero_and_any_floats_use_the_whole_of_it(tmp_path: Path) -> None:
    hounsfield = [array - 1024 for array in ramps("int32", 4000)]
    root = save_classes(tmp_path / "ct", hounsfield)
    dataset = load_dataset("folder", data_root=root)
    assert dataset.split("train").decoding == Decoding(integer_range=(-1024, 2976))
    kelvin = [array / 20 + 270 for array in ramps("float32", 1000)]
    found = load_dataset("folder", data_root=save_classes(tmp_path / "kelvin", kelvin)).split("val").decoding
    assert found.float_range == pytest.approx((270, 320)) and found.integer_range is None


def test_what_was_taken_is_said_once_and_bit_depth_decides_otherwise(tmp_path: Path) -> None:
    root = save_classes(tmp_path, ramps("uint16", 4000))
    with pytest.warns(UserWarning, match="0 is black and 4095 white") as said:
        data = build_datamodule("folder", data_root=root, preprocessing=PREPROCESSING)
        data.setup()
    assert len(said) == 1 and data.preprocessing.integer_range == (0, 4095)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = build_datamodule("folder", data_root=root, preprocessing=PREPROCESSING, bit_depth=16)
        assert data.num_classes == 2 and data.preprocessing.integer_range == (0, 65535)
    with pytest.raises(UserError, match=r"4000, and 0 is black, 1023 white .*`bit_depth`"):
        load_dataset("folder", data_root=root, bit_depth=10)
    with pytest.raises(BadValue, match="`bit_depth`=33"):
        load_dataset("folder", data_root=root, bit_depth=33)


def test_a_network_keeps_its_range_on_other_data(tmp_path: Path) -> None:
    root = save_classes(tmp_path, ramps("uint16", 4000))
    trained = replace(PREPROCESSING, integer_range=(0, 16383))
    data = build_datamodule("folder", data_root=root, preprocessing=trained, num_workers=0)
    image, _ = data.eval_dataloader("val").dataset[0]
    assert data.preprocessing == trained and 50 < int(image.max()) <= 64
    state = data.state_dict()
    entries = {field.name: state[field.name] for field in fields(Preprocessing)}
    assert Preprocessing.from_entries(json.loads(json.dumps(entries))) == trained
    del entries["integer_range"], entries["float_range"]  # a run of earlier times
    assert read_preprocessing(entries, root) == PREPROCESSING
    for wrong in ([1], [3, 3], [0, math.inf], "ab", 7):
        with pytest.raises(DamagedFile, match="its preprocessing is"):
            read_preprocessing({**entries, "integer_range": wrong}, root)


def test_cached_images_have_the_same_range(tmp_path: Path) -> None:
    root = save_classes(tmp_path / "data", ramps("uint16", 4000))
    plain = pixels_of(root)
    for _ in range(2):
        cached = pixels_of(root, cache="disk", cache_dir=tmp_path / "cache")
        assert all(np.array_equal(*pair) for pair in zip(plain, cached, strict=True))
    deeper = pixels_of(root, cache="disk", cache_dir=tmp_path / "cache", bit_depth=16)
    assert max(image.max() for image in deeper) <= 16


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [3, 4])
def test_deep_colours_keep_all_their_bits(file_format: str, channels: int) -> None:
    import cv2

    values = np.random.default_rng(0).integers(0, 4096, (8, 9, channels)).astype(np.uint16)
    if channels == 4:
        values[..., 3] = 65535
        values[0, 0, 3] = 0
    suffix = {"PNG": ".png", "TIFF": ".tif"}[file_format]
    bgr = cv2.cvtColor(values, cv2.COLOR_RGB2BGR if channels == 3 else cv2.COLOR_RGBA2BGRA)
    encoded = cv2.imencode(suffix, bgr)[1].tobytes()
    expected = (values[..., :3] / 4095 * 255).round().astype(np.uint8)
    if channels == 4:
        expected[0, 0] = 255  # transparent
    assert np.array_equal(decode_image(encoded, Decoding(integer_range=(0, 4095))), expected)


def test_what_lies_far_outside_the_range_is_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), 5000, np.uint16)).save(stream, "TIFF")
    with pytest.raises(BadImageError, match=r"pixel values 5000\.\.5000, and 0 is black, 4095 white"):
        decode_image(stream.getvalue(), Decoding(integer_range=(0, 4095)))
    floats = Decoding(float_range=(0, 1))
    assert floats.refusal(Extent(True, 0, 1.5)) is None
    assert "2.5" in str(floats.refusal(Extent(True, 0, 2.5)))
    assert "no known range" in str(Decoding().refusal(Extent(True, 0, 1)))


def test_not_a_number_is_refused_by_name(tmp_path: Path) -> None:
    arrays = ramps("float32", 1)
    arrays[3][0, 0] = np.nan
    with pytest.raises(UserError, match=r"3\.tif: NaN or infinite pixels"):
        load_dataset("folder", data_root=save_classes(tmp_path, arrays))
