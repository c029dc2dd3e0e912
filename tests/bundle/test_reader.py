"""The bundle's reader runs alone, and decodes what it accepts to the bit as we do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.bundle.test_formats import PREPROCESSING, decoded, image_files, installed, tiny
from transfer.bundle import reader
from transfer.bundle.formats import open_format, write_format
from transfer.images.decode import decode_image
from transfer.images.depth import Decoding
from transfer.preprocessing import Preprocessing

READER = Path(reader.__file__)
RANGES = asdict(PREPROCESSING)


def noise(*shape: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, high, shape).astype(np.uint8 if high <= 256 else np.uint16)


def unusual_files(folder: Path) -> list[Path]:
    """Pictures of many modes, orientations and formats."""
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("jpg", "png", "tiff", "webp"):
            Image.fromarray(noise(20, 31, 3)).save(folder / f"turned{orientation}.{suffix}", exif=exif)
        Image.fromarray(noise(20, 31, high=4096)).save(folder / f"deep{orientation}.png", exif=exif)
    rgba = Image.fromarray(noise(22, 33, 4))
    rgba.save(folder / "clear.webp", lossless=True)
    rgba.convert("LA").save(folder / "clear_grey.png")
    palette = Image.fromarray(noise(22, 33, 3)).quantize(16)
    palette.save(folder / "palette.png", transparency=3)
    palette.save(folder / "palette.gif", save_all=True, append_images=[palette.rotate(90)], transparency=3)
    Image.fromarray(noise(22, 33) > 127).save(folder / "bits.png")
    Image.fromarray(noise(22, 33, high=4096)).save(folder / "deep.tiff")
    Image.fromarray(noise(22, 33)).save(folder / "grey.jpg")
    Image.fromarray(noise(22, 33)).save(folder / "grey.pgm")
    Image.fromarray(noise(22, 33, 3)).save(folder / "colours.bmp")
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_pixels_are_those_of_decode_image(tmp_path: Path) -> None:
    paths = [*image_files(tmp_path), *unusual_files(tmp_path)]
    assert len(paths) > 55
    for path in paths:
        found = reader.decode(str(path), RANGES)
        assert found.dtype == np.uint8
        assert np.array_equal(found, decode_image(path, Decoding.of(PREPROCESSING))), path.name


def test_floats_and_negative_integers_follow_their_ranges(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(-0.2, 1.4, 600, dtype=np.float32).reshape(20, 30)).save(tmp_path / "float.tiff")
    Image.fromarray(np.arange(-500, 700, 2, dtype=np.int32).reshape(20, 30)).save(tmp_path / "integer.tiff")
    ranged = replace(PREPROCESSING, float_range=(0.0, 1.0), integer_range=(-450.0, 600.0))
    for name in ("float.tiff", "integer.tiff"):
        found = reader.decode(str(tmp_path / name), asdict(ranged))
        assert np.array_equal(found, decode_image(tmp_path / name, Decoding.of(ranged)))
        with pytest.raises(ValueError, match=r"where (nan|0) is black"):
            reader.decode(str(tmp_path / name), RANGES)


def test_what_pillow_would_decode_to_8_bits_is_refused(tmp_path: Path) -> None:
    for name in ("colours.png", "colours.tiff"):
        cv2.imwrite(str(tmp_path / name), noise(20, 30, 3, high=4096))
    cv2.imwrite(str(tmp_path / "clear.png"), noise(20, 30, 4, high=4096))
    for path in tmp_path.iterdir():
        decode_image(path, Decoding.of(PREPROCESSING))
        with pytest.raises(ValueError, match="16-bit colours"):
            reader.decode(str(path), RANGES)


def test_it_is_short() -> None:
    assert sum(bool(line.strip()) for line in READER.read_text(encoding="utf-8").splitlines()) <= 40


CLASSES = [f"class {number}" for number in range(7)]


def write_bundle(folder: Path, preprocessing: Preprocessing, multilabel: bool = False) -> None:
    """Write what the reader needs of a bundle."""
    write_format("onnx", tiny(), preprocessing, folder, multilabel=multilabel, temperature=1.3)
    content = {"class_names": CLASSES, "multilabel": multilabel, "threshold": 0.5}
    (folder / "model.json").write_text(json.dumps({**content, "preprocessing": asdict(preprocessing)}))
    (folder / "predict.py").write_bytes(READER.read_bytes())


def run(folder: Path, *paths: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    words = [sys.executable, "-I", "predict.py", *paths]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@installed
@pytest.mark.parametrize("multilabel", [False, True])
def test_it_prints_path_class_and_probability(multilabel: bool, tmp_path: Path) -> None:
    bundle, photos = tmp_path / "bundle", tmp_path / "photos"
    for folder in (bundle, photos, bundle / "home"):
        folder.mkdir()
    images = decoded(photos)
    write_bundle(bundle, PREPROCESSING, multilabel)
    paths = [str(path) for path in image_files(photos)]
    ran = run(bundle, *paths)
    assert (ran.returncode, ran.stderr) == (0, "")
    logits = open_format("onnx", bundle, PREPROCESSING)(images).logits.astype(np.float64) / 1.3
    shares = 1 / (1 + np.exp(-logits)) if multilabel else np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = [
        f"{path} class {index} {row[index]:.4f}"
        for path, row in zip(paths, shares, strict=True)
        for index in (np.flatnonzero(row >= 0.5) if multilabel else [row.argmax()])
    ]
    assert len(expected) > 2 and ran.stdout.splitlines() == expected
    assert list((bundle / "home").iterdir()) == []


@installed
def test_it_imports_only_what_it_says_and_refuses_in_one_line(tmp_path: Path) -> None:
    write_bundle(tmp_path, PREPROCESSING)
    (tmp_path / "photo.jpg").write_text("no photo")
    cv2.imwrite(str(tmp_path / "colours.png"), noise(20, 30, 3, high=4096))
    for name in ("photo.jpg", "colours.png", "missing.jpg"):
        ran = run(tmp_path, name)
        assert (ran.returncode, ran.stdout) == (1, "") and ran.stderr.startswith(f"{name}: ")
        assert ran.stderr.count("\n") == 1, ran.stderr
    ran = run(tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "") and "python predict.py photo.jpg ..." in ran.stderr
    cv2.imwrite(str(tmp_path / "fine.png"), noise(20, 30, 3))
    code = "import runpy, sys; sys.argv = ['predict.py', 'fine.png']; runpy.run_path('predict.py', run_name='__main__')"
    packages = {"torch", "transfer", "datamodules", "cv2", "onnx", "scipy", "simplejpeg", "safetensors"}
    code += f"; print({packages} & set(sys.modules), 'onnxruntime' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("fine.png class ") and ran.stdout.endswith("\nset() True\n")


def test_a_network_that_cannot_be_opened_is_refused_in_one_line(tmp_path: Path) -> None:
    write_bundle(tmp_path, PREPROCESSING)
    Image.fromarray(noise(20, 30, 3)).save(tmp_path / "fine.png")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x63")
    for fact in ("model.onnx", "model.json"):
        ran = run(tmp_path, "fine.png")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert fact in ran.stderr and len(ran.stderr.splitlines()) == 1
        (tmp_path / "model.json").unlink(missing_ok=True)
