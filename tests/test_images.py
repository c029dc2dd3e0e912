"""Decoding: what a person would see, or a reason why not; every ugly file that users have."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import BadImage, BadImageError, decode_image, list_images, natural_key
from transfer.errors import UserError


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_rgb_png_is_unchanged_from_bytes_and_from_file(tmp_path: Path) -> None:
    pixels = noise(5, 7)
    encoded = encode(Image.fromarray(pixels))
    (tmp_path / "a.png").write_bytes(encoded)
    assert np.array_equal(decode_image(encoded), pixels)
    assert np.array_equal(decode_image(tmp_path / "a.png"), pixels)
    assert decode_image(encoded).dtype == np.uint8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_becomes_white(mode: str) -> None:
    if mode in ("P", "PA"):
        image = Image.new("P", (4, 4), 0)
        image.putpalette([200, 0, 0, 0, 0, 200])
        image.putpixel((0, 0), 1)
        encoded = encode(image, transparency=0)
    else:
        image = Image.new(mode, (4, 4), (200, 0) if mode == "LA" else (200, 0, 0, 0))
        image.putpixel((0, 0), (7, 255) if mode == "LA" else (7, 7, 7, 255))
        encoded = encode(image)
    decoded = decode_image(encoded)
    assert decoded[3, 3].tolist() == [255, 255, 255]
    assert decoded[0, 0].tolist() == ([0, 0, 200] if mode in ("P", "PA") else [7, 7, 7])


def test_half_transparent_is_blended_over_white() -> None:
    decoded = decode_image(encode(Image.new("RGBA", (2, 2), (0, 0, 0, 128))))
    assert decoded[0, 0].tolist() == [127, 127, 127]


def test_cmyk_jpeg_is_converted() -> None:
    decoded = decode_image(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    assert decoded.shape == (16, 16, 3)
    assert np.abs(decoded.astype(int) - [255, 0, 0]).max() < 8


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    decoded = decode_image(encode(Image.fromarray(ramp)))
    assert np.array_equal(decoded[..., 0], np.rint(ramp / 257).astype(np.uint8))
    assert decoded.max() == 255 and len(np.unique(decoded)) == 64


def test_float_tiff_is_refused() -> None:
    with pytest.raises(BadImageError, match="floating-point pixels have no known range"):
        decode_image(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned a quarter clockwise to be upright
    pixels = noise(4, 6)
    decoded = decode_image(encode(Image.fromarray(pixels), "PNG", exif=exif))
    assert np.array_equal(decoded, np.rot90(pixels, -1))


def test_animated_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    decoded = decode_image(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert decoded[0, 0].tolist() == [255, 0, 0]


def test_bad_files_are_refused_with_a_one_line_reason(tmp_path: Path) -> None:
    jpeg = encode(Image.fromarray(noise(64, 64)), "JPEG")
    cases = {
        b"": r"empty \(0 bytes\)",
        b"just some text": "not an image",
        jpeg[: len(jpeg) // 2]: "truncated",
    }
    for content, reason in cases.items():
        with pytest.raises(BadImageError, match=reason) as caught:
            decode_image(content)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadImageError, match="no such file"):
        decode_image(tmp_path / "missing.jpg")


def test_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encode(Image.new("RGB", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadImageError, match="decompression bomb"):
        decode_image(encoded)


def test_bad_image_reads_as_name_and_reason() -> None:
    assert str(BadImage("a.jpg", "empty (0 bytes)")) == "a.jpg: empty (0 bytes)"


def test_natural_order_reads_digits_as_numbers() -> None:
    assert sorted(["10", "2", "1", "a10", "a9", "B"], key=natural_key) == ["1", "2", "10", "a9", "a10", "B"]


def test_list_images_recurses_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("10.JPG", "2.jpg", ".hidden.jpg", "notes.txt", "sub/1.Png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == [
        "2.jpg",
        "10.JPG",
        "sub/1.Png",
    ]
    assert list_images(tmp_path / "2.jpg") == [tmp_path / "2.jpg"]


def test_list_images_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file or folder: .*nowhere"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no image in .* image files end in .*\.jpg"):
        list_images(tmp_path)


def test_a_link_back_to_a_folder_above_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [path.name for path in list_images(tmp_path)] == ["x.png"]
