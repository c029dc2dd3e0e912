"""Classify photos with a bundle, without torch where its format needs none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transfer.bundle.bundle import Bundle, load_bundle
from transfer.bundle.models import SAFETENSORS
from transfer.calibration.guarantees import Guarantees
from transfer.commands.predict import check_top_k, find_images, prediction_row, write_output
from transfer.commands.predict_guarantees import report_certainty, report_temperature
from transfer.errors import BadValue, printable
from transfer.images.decode import BadImage, BadImageError, Pixels, decode_image
from transfer.images.depth import Decoding

# The format that an engine of `--engine` stands for; a bundle has no others.
_FORMATS = {
    "auto": None,
    "torch": SAFETENSORS,
    "openvino": "openvino",
    "openvino-int8": "openvino-int8",
    "onnxruntime": "onnx",
}


def predict_with_bundle(
    path: Path,
    images: list[Path],
    format: str,
    out: Path | None,
    top_k: int | None,
    batch_size: int,
    num_workers: int | None,
    engine: str,
    checkpoint: str,
    guarantees: Guarantees,
) -> list[str]:
    """Write a row for each image; the arguments are those of `transfer.commands.predict.predict`.

    Returns:
        The files that could not be read.

    Raises:
        MissingData, DamagedFile, BadValue: see `load_bundle`; or an argument is out of range or for runs alone.
    """
    if engine not in _FORMATS:
        raise BadValue(f"`engine`={engine}: {path} is a bundle (allowed: {', '.join(_FORMATS)})")
    if checkpoint != "best":
        raise BadValue(f"`checkpoint`={checkpoint}: {path} is a bundle, which holds one network")
    bundle = load_bundle(path, _FORMATS[engine])
    paths = find_images(images)
    check_top_k(top_k, bundle.class_names)
    if guarantees:
        guarantees.check(bundle.calibrated(), bundle.class_names)
    unreadable: list[str] = []
    unknown: list[str] = []
    rows = _rows(bundle, paths, top_k, batch_size, num_workers, unreadable, unknown, guarantees)
    write_output(rows, format, out, bundle.folder.record.separator)
    print(f"format: {bundle.format}", file=sys.stderr)
    if unreadable:
        print(f"{len(unreadable)} of {len(paths)} images could not be read", file=sys.stderr)
    report_temperature(bundle.folder.record.temperature)
    if guarantees:
        report_certainty(bundle.calibrated(), guarantees, len(unknown), len(paths) - len(unreadable))
    return unreadable


def _rows(
    bundle: Bundle,
    paths: list[Path],
    top_k: int | None,
    batch_size: int,
    num_workers: int | None,
    unreadable: list[str],
    unknown: list[str],
    guarantees: Guarantees,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each readable image; the next batch is decoded while one is computed."""
    record = bundle.folder.record
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor(num_workers or None) as pool:
        waiting = [pool.submit(_decode, path, record.decoding) for path in batches[0]]
        for batch, following in zip(batches, [*batches[1:], []], strict=True):
            decoded = [task.result() for task in waiting]
            waiting = [pool.submit(_decode, path, record.decoding) for path in following]
            for image in decoded:
                if isinstance(image, BadImage):
                    unreadable.append(image.name)
                    print(printable(f"unreadable: {image}"), file=sys.stderr)
            names = [str(path) for path, image in zip(batch, decoded, strict=True) if not isinstance(image, BadImage)]
            good = [image for image in decoded if not isinstance(image, BadImage)]
            if good:
                for name, prediction in zip(names, bundle.predictions(good, top_k or 1, guarantees), strict=True):
                    if prediction.unknown:
                        unknown.append(name)
                    yield prediction_row(name, prediction, record.multilabel and top_k is None)


def _decode(path: Path, decoding: Decoding) -> Pixels | BadImage:
    try:
        return decode_image(path, decoding)
    except BadImageError as error:
        return BadImage(str(path), str(error))
