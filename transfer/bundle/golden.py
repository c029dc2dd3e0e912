"""Golden inputs: eight images as files, the pixels that preprocessing makes of them, and the network's logits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.bundle.folder import BundleFolder
from transfer.errors import DamagedFile
from transfer.files import read_object, write_json
from transfer.images.decode import PICTURE_FORMATS, Pixels, decode_image, open_image
from transfer.images.place import tells_place
from transfer.images.prepare import prepare_pixels
from transfer.preprocessing import Preprocessing
from transfer.records import checked

FOLDER = "golden"
INDEX = f"{FOLDER}/golden.json"
NUM_INPUTS = 8
# Heights and widths of noise: small, square, wide, tall, and larger than any crop.
_NOISE_SHAPES = ((24, 30), (64, 64), (97, 61), (40, 200), (200, 40), (256, 256), (301, 420), (640, 480))


@dataclass(frozen=True, kw_only=True)
class GoldenInput:
    """One input.

    Attributes:
        file: its encoded image, in the folder `golden`.
        pixels: PNG of its pixels after preprocessing.
        logits: the float32 PyTorch classifier's, (K,).
    """

    file: str
    pixels: str
    logits: list[float]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """The content of `golden.json`.

    Attributes:
        inputs: the inputs.
        own_logits: of a format of 8 bits, its own logits, (N, K).
    """

    inputs: list[GoldenInput]
    own_logits: dict[str, list[list[float]]] = field(default_factory=dict)

    def logits(self, format: str = "") -> NDArray[np.float32]:
        """Return what a format must answer: its own logits if it has any, else the classifier's. Shape: (N, K)"""
        own = self.own_logits.get(format)
        return np.array([row.logits for row in self.inputs] if own is None else own, np.float32)


def choose_inputs(labels: NDArray[Any]) -> list[int]:
    """Return the positions of eight images, or all if there are fewer, of as many classes as there are.

    Args:
        labels: class indices (N,), or multi-hot (N, C), of which each image's first label counts.
    """
    classes = labels.argmax(1) if labels.ndim == 2 else labels
    order = np.argsort(classes, kind="stable")
    rank = np.empty(len(classes), np.int64)  # an image's place among those of its class
    for of_class in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):
        rank[of_class] = np.arange(len(of_class))
    firsts = np.flatnonzero(rank == 0)[np.argsort(classes[rank == 0], kind="stable")]
    if len(firsts) >= NUM_INPUTS:
        return [int(index) for index in firsts[np.linspace(0, len(firsts) - 1, NUM_INPUTS).astype(int)]]
    return [int(index) for index in np.lexsort((classes, rank))[:NUM_INPUTS]]


def noise_files() -> list[bytes]:
    """Return eight PNG files of seeded noise, of several sizes, where no photo may or can leave with the network."""
    rng = np.random.default_rng(0)
    found = []
    for height, width in _NOISE_SHAPES:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height))
        fine = rng.integers(-60, 61, (height, width, 3))  # the coarse part survives the resizing, the fine one tests it
        found.append(_png(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8)))
    return found


def write_inputs(
    folder: Path, files: Sequence[bytes], decoded: Sequence[Pixels], logits: NDArray[np.float32], how: Preprocessing
) -> Golden:
    """Write inputs and pixels into a bundle's folder, and return them with their logits.

    Args:
        folder: the bundle's.
        files: the encoded images.
        decoded: what `decode_image` makes of them.
        logits: the classifier's, (N, K).
        how: how images are prepared.
    """
    (folder / FOLDER).mkdir()
    inputs = []
    for index, (encoded, pixels) in enumerate(zip(files, decoded, strict=True)):
        name = f"{index}{_suffix(encoded)}"
        (folder / FOLDER / name).write_bytes(encoded)
        prepared = f"{index}.pixels.png"
        (folder / FOLDER / prepared).write_bytes(_png(prepare_pixels(pixels, how)))
        inputs.append(GoldenInput(file=name, pixels=prepared, logits=logits[index].tolist()))
    return Golden(inputs=inputs)


def write_index(folder: Path, golden: Golden) -> None:
    """Write `golden.json`, once the own logits of all formats are known."""
    write_json(folder / INDEX, asdict(golden))


def read_golden(bundle: BundleFolder) -> Golden:
    """Return the golden inputs of a bundle.

    Raises:
        MissingData: a file is missing.
        DamagedFile: a file was changed since it was written, or there are not the logits of all classes.
    """
    path = bundle.file(INDEX)
    golden = checked(read_object(path), Golden, bundle.path / INDEX)
    shapes = {np.shape(golden.logits(name)) for name in ("", *golden.own_logits)}
    if shapes != {(len(golden.inputs), len(bundle.record.class_names))} or not golden.inputs:
        raise DamagedFile(f"{bundle.path / INDEX}: not the logits of {len(bundle.record.class_names)} classes")
    return golden


def read_inputs(bundle: BundleFolder, golden: Golden) -> list[Pixels]:
    """Return the inputs decoded, RGB (H, W, 3) each.

    Raises:
        MissingData, DamagedFile: see `read_golden`; or one is no image.
    """
    decoded = []
    for row in golden.inputs:
        try:
            decoded.append(decode_image(bundle.file(f"{FOLDER}/{row.file}"), bundle.record.decoding))
        except DamagedFile as error:
            where = bundle.path / FOLDER / row.file
            raise DamagedFile(str(error) if str(where) in str(error) else f"{where}: {error}") from None
    return decoded


def describe_places(bundle: BundleFolder) -> str:
    """Return a line on the inputs that say where they were taken; empty if none does.

    Raises:
        MissingData, DamagedFile: see `read_golden`.
    """
    files = [bundle.file(f"{FOLDER}/{row.file}") for row in read_golden(bundle).inputs]
    found = [path.name for path in files if tells_place(path.read_bytes(), bundle.record.max_pixels)]
    return f"their metadata say where they were taken (GPS): {', '.join(found)} in {FOLDER}/" if found else ""


def pixel_difference(bundle: BundleFolder, golden: Golden, decoded: Sequence[Pixels]) -> int:
    """Return the largest difference between the inputs' pixels after preprocessing, here and in the bundle, in 0..255.

    Raises:
        MissingData, DamagedFile: see `read_golden`.
    """
    how, largest = bundle.record.preprocessing, 0
    for row, pixels in zip(golden.inputs, decoded, strict=True):
        with open_image(bundle.file(f"{FOLDER}/{row.pixels}").read_bytes()) as image:
            stored = np.asarray(image).astype(np.int64)
        found = prepare_pixels(pixels, how).astype(np.int64)
        if stored.size != found.size:
            raise DamagedFile(f"{bundle.path / FOLDER / row.pixels}: not pixels of {found.shape}")
        largest = max(largest, int(np.abs(found - stored.reshape(found.shape)).max()))
    return largest


def _suffix(encoded: bytes) -> str:
    """Return the file extension of an encoded image."""
    with open_image(encoded) as image:
        return PICTURE_FORMATS[str(image.format) if image.format != "MPO" else "JPEG"][0]


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()
