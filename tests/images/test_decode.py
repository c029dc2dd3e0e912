"""Decoding: what a person would see, or a reason why not; every ugly file that users have."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, PngImagePlugin

from datamodules.images.pictures import DecodedPicture, JpegPicture, open_picture
from datamodules.images.transforms import apply_transform, build_train_transform, seed_transform
from transfer.images import decode
from transfer.images.decode import (
    PICTURE_SUFFIXES,
    BadImage,
    BadImageError,
    decode_image,
    image_shape,
    readable_formats,
)
from transfer.images.depth import Decoding
from transfer.images.jpeg import read_jpeg_header
from transfer.images.listing import list_images
from transfer.preprocessing import IMAGENET, Preprocessing

PREPROCESSING = Preprocessing(64, 0.875, "bicubic", *IMAGENET)


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


def test_what_is_no_regular_file_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "endless.png"):
        with pytest.raises(BadImageError, match="not a regular file"):
            decode_image(tmp_path / name)


def test_postscript_named_jpg_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, started = tmp_path / "x.jpg", tmp_path / "started"
    Image.new("RGB", (8, 8)).save(picture, "EPS")
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {started}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for function in (decode_image, image_shape, lambda path: open_picture(path).pixels()):
        with pytest.raises(BadImageError, match=r"not an image of a format that is read .* starting b'%!PS"):
            function(picture)
    assert not started.exists()
    with pytest.raises(OSError), Image.open(picture) as image:
        image.load()
    assert started.exists()  # as Pillow does when it is not told what to read


@pytest.mark.parametrize(
    ("file_format", "suffix"),
    [("AVIF", ".avif"), ("HEIF", ".heic"), ("JPEG2000", ".jp2"), ("JPEG", ".jfif"), ("WEBP", ".webp"), ("PPM", ".pnm")],
)
def test_every_format_of_the_table_is_read(tmp_path: Path, file_format: str, suffix: str) -> None:
    assert file_format in readable_formats() and suffix in PICTURE_SUFFIXES
    pixels = np.asarray(smooth(48, 64))
    path = tmp_path / f"x{suffix.upper()}"
    Image.fromarray(pixels).save(path, file_format)
    assert list_images(tmp_path) == [path]
    assert image_shape(path) == (48, 64)
    assert np.abs(decode_image(path).astype(int) - pixels).mean() < 4


def test_a_format_whose_plugin_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encode(smooth(48, 64), "HEIF")
    monkeypatch.setattr(decode, "readable_formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(BadImageError, match="pip install pillow-heif"):
        decode_image(encoded)
    with pytest.raises(BadImageError, match=r"Pillow 11\.3"):
        decode_image(encode(smooth(48, 64), "AVIF"))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "GIF"])
def test_images_up_to_max_pixels_are_read_and_larger_ones_refused(
    file_format: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    encoded = encode(smooth(100, 100).convert("L"), file_format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own limit does not count
    assert decode_image(encoded, Decoding(max_pixels=10_000)).shape == (100, 100, 3)
    assert image_shape(encoded, 10_000) == (100, 100)
    for function in (
        lambda: decode_image(encoded, Decoding(max_pixels=9_999)),
        lambda: open_picture(encoded, Decoding(max_pixels=9_999)),
        lambda: image_shape(encoded, 9_999),
    ):
        with pytest.raises(BadImageError, match=r"100 x 100 = 10,000 pixels .* `max_pixels`=9999"):
            function()
    assert Image.MAX_IMAGE_PIXELS == 1000 and not recwarn.list


def test_a_png_with_a_long_text_is_read() -> None:
    pixels, text = noise(8, 8), PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 1_500_000, zip=True)
    assert np.array_equal(decode_image(encode(Image.fromarray(pixels), pnginfo=text)), pixels)


def test_a_png_without_its_end_is_refused() -> None:
    encoded = encode(Image.fromarray(noise(8, 8)))
    with Image.open(io.BytesIO(encoded[:-12])) as image:
        image.load()  # Pillow does not notice
    with pytest.raises(BadImageError, match="PNG without its end"):
        decode_image(encoded[:-12])
    assert decode_image(encoded + b"trailing").shape == (8, 8, 3)


# --- decoding what a crop needs


def smooth(height: int, width: int, cell: int = 50) -> Image.Image:
    """Cells in random greys with some colour, as in photos."""
    cells = noise(height // cell + 1, width // cell + 1)
    faint = (cells // 4 + 3 * (cells[..., :1] // 4)).astype(np.uint8)
    return Image.fromarray(faint).resize((width, height), Image.Resampling.BICUBIC)


JPEGS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_rows": 1},
    "RGB inside": {"keep_rgb": True},
    "comment": {"comment": b"Orientation is not said here"},
}


@pytest.mark.parametrize("kind", [*JPEGS, "grey"])
@pytest.mark.parametrize("shape", [(203, 181), (128, 96)])
@pytest.mark.parametrize("is_sound", [False, True])
def test_a_crop_at_full_scale_is_what_pillow_decodes_to_the_bit(
    kind: str, shape: tuple[int, int], is_sound: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    image = Image.fromarray(noise(*shape))
    encoded = encode(image.convert("L") if kind == "grey" else image, "JPEG", quality=90, **JPEGS.get(kind, {}))
    picture = open_picture(encoded, is_sound=is_sound)
    with Image.open(io.BytesIO(encoded)) as by_pillow:
        pixels = np.asarray(by_pillow.convert("RGB"))
    assert isinstance(picture, JpegPicture) and (picture.height, picture.width) == shape == image_shape(encoded)
    assert np.array_equal(picture.pixels(), pixels)
    for top, bottom in ((0, 1), (5, 64), (0, 63), (30, 79), (10, 80), (60, 95), (40, 112), (3, shape[0])):
        crop = picture.crop((7, top, 90, bottom), 64)
        assert np.array_equal(crop, pixels[top:bottom, 7:90]), (top, bottom)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [*JPEGS, "grey"])
@pytest.mark.parametrize(("side", "reduction"), [(300, 1), (150, 2), (75, 4), (37, 8)])
def test_reduced_scale_keeps_the_pixels_that_are_needed_and_looks_the_same(
    kind: str, side: int, reduction: int
) -> None:
    image = smooth(410, 603)
    encoded = encode(image.convert("L") if kind == "grey" else image, "JPEG", quality=95, **JPEGS.get(kind, {}))
    box = (96, 8, 592, 312)
    crop = open_picture(encoded, is_sound=True).crop(box, side)
    assert np.array_equal(crop, open_picture(encoded).crop(box, side))
    assert crop.shape == (304 // reduction, 496 // reduction, 3) and min(crop.shape[:2]) >= side
    full = Image.fromarray(decode_image(encoded)[box[1] : box[3], box[0] : box[2]])
    expected = np.asarray(full.resize((crop.shape[1], crop.shape[0]), Image.Resampling.BOX))
    assert np.abs(crop.astype(int) - expected).mean() < 2


def test_a_training_crop_of_a_large_jpeg_is_that_of_its_pixels() -> None:
    # At reduced scale the crop moves by up to half a pixel of the result.
    encoded = encode(smooth(600, 800, 100), "JPEG", quality=95)
    transform = build_train_transform(PREPROCESSING, "basic")
    results = []
    for picture in (open_picture(encoded), DecodedPicture(decode_image(encoded))):
        images = []
        for seed in range(20):
            seed_transform(transform, seed)
            images.append(apply_transform(transform, picture))
        results.append(np.stack(images).astype(int))
    assert 0 < np.abs(results[0] - results[1]).mean() < 2


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("augment", ["basic", "trivialaugment", "cutout", "none"])
def test_a_picture_is_augmented_as_its_pixels_are(file_format: str, augment: str) -> None:
    encoded = encode(Image.fromarray(noise(90, 100)), file_format)
    transform = build_train_transform(PREPROCESSING, augment)
    for seed in range(5):
        seed_transform(transform, seed)
        first = apply_transform(transform, open_picture(encoded))
        seed_transform(transform, seed)
        assert np.array_equal(first, transform(image=decode_image(encoded))["image"])


def test_fill_bytes_before_a_marker_are_skipped() -> None:
    encoded = encode(smooth(100, 100), "JPEG")
    filled = encoded[:2] + b"\xff\xff" + encoded[2:]
    picture = open_picture(filled)
    assert isinstance(picture, JpegPicture)
    assert np.array_equal(picture.crop((5, 5, 90, 60), 80), decode_image(encoded)[5:60, 5:90])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_jpeg_is_decoded_whole_and_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(smooth(120, 240), "JPEG", exif=exif)
    picture, upright = open_picture(encoded), decode_image(encoded)
    assert isinstance(picture, JpegPicture) == (orientation == 1)
    assert (picture.height, picture.width) == image_shape(encoded) == upright.shape[:2]
    assert np.array_equal(picture.crop((10, 20, 90, 100), 60), upright[20:100, 10:90])


def test_a_rotation_in_xmp_counts_too() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    encoded = encode(smooth(120, 240), "JPEG", xmp=xmp)
    assert isinstance(open_picture(encoded), DecodedPicture)
    assert image_shape(encoded) == decode_image(encoded).shape[:2] == (240, 120)


def test_other_files_are_decoded_whole() -> None:
    files = [encode(smooth(96, 96), file_format) for file_format in ("PNG", "WEBP", "BMP")]
    files.append(encode(smooth(96, 96).convert("CMYK"), "JPEG"))
    for encoded in files:
        picture = open_picture(encoded)
        assert isinstance(picture, DecodedPicture)
        assert np.array_equal(picture.crop((0, 0, 96, 96), 12), decode_image(encoded))
        assert image_shape(encoded) == (96, 96)


def test_a_broken_jpeg_is_refused_or_read_as_by_pillow() -> None:
    encoded = encode(Image.fromarray(noise(96, 96)), "JPEG")
    with pytest.raises(BadImageError, match="truncated"):
        open_picture(encoded[: len(encoded) // 2])
    for broken in (encoded[:400] + b"\xff\xd9", encoded[: len(encoded) // 2] + b"\xff\xd9"):
        try:
            pixels = decode_image(broken)
        except BadImageError as error:
            with pytest.raises(BadImageError, match=str(error)[:20]):
                open_picture(broken).crop((0, 0, 96, 96), 96)
        else:
            assert np.array_equal(open_picture(broken).crop((0, 0, 96, 96), 96), pixels)
    start, end = b"\xff\xd8", b"\xff\xd9"
    short_frame, short_scan = (start + b"\xff" + marker + b"\x00\x02" + end for marker in (b"\xc0", b"\xda"))
    for nothing in (start + end, short_frame, short_scan, b"\xff\xd8\xff\xe1\x00\x08Exif\x00\x00\xff\xd9"):
        for function in (open_picture, image_shape):
            with pytest.raises(BadImageError):
                function(nothing)


def damaged(encoded: bytes, how: str) -> bytes:
    """A JPEG whose markers at both ends are there, and whose inside is not."""
    middle = len(encoded) // 2
    if how == "zeros":
        return encoded[:middle] + bytes(300) + encoded[middle + 300 :]
    if how == "gap":
        return encoded[:middle] + encoded[middle + 300 :]
    if how == "cut":
        return encoded[:middle] + b"\xff\xd9"
    header = read_jpeg_header(encoded)
    assert how == "more rows" and header is not None
    at = header.height_at
    return encoded[:at] + (4 * header.height).to_bytes(2, "big") + encoded[at + 2 :]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("how", ["zeros", "gap", "cut", "more rows"])
def test_a_jpeg_that_is_damaged_inside_is_refused(how: str, mode: str, turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = encode(Image.fromarray(noise(96, 128)).convert(mode), "JPEG", **({"exif": exif} if turned else {}))
    if how == "more rows" and (turned or mode == "CMYK"):  # our own reader of headers leaves those to Pillow
        at = encoded.index(b"\xff\xc0") + 5
        broken = encoded[:at] + (400).to_bytes(2, "big") + encoded[at + 2 :]
    else:
        broken = damaged(encoded, how)
    assert decode_image(encoded).shape == ((128, 96, 3) if turned else (96, 128, 3))
    with pytest.raises(BadImageError, match="damaged or truncated"):
        decode_image(broken)
    with Image.open(io.BytesIO(broken)) as image:
        image.load()  # Pillow does not notice


@pytest.mark.parametrize("how", ["zeros", "gap", "cut"])
@pytest.mark.parametrize(("side", "box"), [(64, (0, 0, 300, 400)), (64, (0, 0, 300, 300)), (8, (0, 0, 100, 250))])
def test_a_training_crop_of_a_damaged_jpeg_is_refused(how: str, side: int, box: tuple[int, int, int, int]) -> None:
    encoded = encode(Image.fromarray(noise(400, 300)), "JPEG")
    pixels = open_picture(encoded).crop(box, side)
    assert np.array_equal(open_picture(encoded, is_sound=True).crop(box, side), pixels)
    with pytest.raises(BadImageError, match="damaged or truncated"):
        open_picture(damaged(encoded, how)).crop(box, side)


def test_padding_before_the_end_of_a_jpeg_is_no_damage() -> None:
    encoded = encode(smooth(96, 96), "JPEG")
    padded, pixels = encoded[:-2] + bytes(500) + encoded[-2:], decode_image(encoded)
    assert np.array_equal(decode_image(padded), pixels)
    assert np.array_equal(open_picture(padded).crop((0, 0, 96, 96), 96), pixels)
    assert np.array_equal(decode_image(encoded + b"trailing"), pixels)


def test_a_jpeg_of_unusual_subsampling_is_read_by_pillow() -> None:
    encoded = bytearray(encode(smooth(96, 96), "JPEG", subsampling=0))
    encoded[encoded.index(b"\xff\xc0") + 11] = 0x31
    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image)
    assert np.array_equal(decode_image(bytes(encoded)), pixels)
    assert np.array_equal(open_picture(bytes(encoded)).crop((0, 0, 96, 96), 96), pixels)


def test_bad_image_reads_as_name_and_reason() -> None:
    assert str(BadImage("a.jpg", "empty (0 bytes)")) == "a.jpg: empty (0 bytes)"
