"""Classify photos with a bundle, without torch where its format needs none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from transfer.bundle.bundle import Bundle, load_bundle
from transfer.bundle.models import SAFETENSORS
from transfer.calibration.calibration import Calibration
from transfer.commands.predict_options import Batch, Options
from transfer.errors import BadValue
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


@dataclass(frozen=True)
class BundlePredictor:
    """A bundle in one of its formats; see `Predictor`."""

    bundle: Bundle
    options: Options

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.bundle.class_names

    @property
    def multilabel(self) -> bool:
        return self.bundle.folder.record.multilabel

    @property
    def separator(self) -> str:
        return self.bundle.folder.record.separator

    @property
    def decoding(self) -> Decoding:
        return self.bundle.folder.record.decoding

    @property
    def temperature(self) -> float:
        return self.bundle.folder.record.temperature

    def calibrated(self) -> Calibration:
        return self.bundle.calibrated()

    def predict(self, paths: Sequence[Path]) -> Iterator[Batch]:
        options = self.options
        for names, images, unreadable in self._decoded(paths):
            found = self.bundle.predictions(images, options.top_k or 1, options.guarantees) if images else []
            yield Batch(names, found, unreadable)

    def _decoded(self, paths: Sequence[Path]) -> Iterator[tuple[list[str], list[Pixels], list[BadImage]]]:
        """Yield batches of images with their names, and of bad ones; the next is decoded while one is computed."""
        size, decoding = self.options.batch_size, self.bundle.folder.record.decoding
        batches = [paths[start : start + size] for start in range(0, len(paths), size)]
        with ThreadPoolExecutor(self.options.num_workers or None) as pool:
            waiting = [pool.submit(_decode, path, decoding) for path in batches[0]]
            for batch, following in zip(batches, [*batches[1:], []], strict=True):
                decoded = [task.result() for task in waiting]
                waiting = [pool.submit(_decode, path, decoding) for path in following]
                good = [
                    (str(path), image)
                    for path, image in zip(batch, decoded, strict=True)
                    if not isinstance(image, BadImage)
                ]
                bad = [image for image in decoded if isinstance(image, BadImage)]
                yield [name for name, _ in good], [image for _, image in good], bad

    def engine(self) -> str:
        return f"format: {self.bundle.format}"


def open_bundle(path: Path, options: Options) -> BundlePredictor:
    """Return a bundle in the format that the engine stands for.

    Raises:
        UserError: see `load_bundle`; or an option is for runs alone.
    """
    if options.engine not in _FORMATS:
        raise BadValue(f"`engine`={options.engine}: {path} is a bundle (allowed: {', '.join(_FORMATS)})")
    if options.checkpoint != "best":
        raise BadValue(f"`checkpoint`={options.checkpoint}: {path} is a bundle, which holds one network")
    return BundlePredictor(load_bundle(path, _FORMATS[options.engine]), options)


def _decode(path: Path, decoding: Decoding) -> Pixels | BadImage:
    try:
        return decode_image(path, decoding)
    except BadImageError as error:
        return BadImage(str(path), str(error))
