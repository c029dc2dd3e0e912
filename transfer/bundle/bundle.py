"""Load a bundle: a network with class names and preprocessing, ready to predict, without torch where it can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transfer.bundle.folder import BundleFolder, open_folder
from transfer.bundle.formats import Model, Outputs
from transfer.bundle.models import choose_format, open_model
from transfer.errors import BadValue, DamagedFile, check_count
from transfer.images.decode import Pixels
from transfer.predictions import ImageLike, Prediction, image_pixels, read_prediction
from transfer.preprocessing import Preprocessing


@dataclass(frozen=True)
class Bundle:
    """A network that was exported, in one of its formats.

    Attributes:
        folder: the bundle on the disk, with its `model.json`.
        format: what computes the network: `openvino`, `onnx`, `safetensors` (PyTorch), ...
        model: the opened format.
    """

    folder: BundleFolder
    format: str
    model: Model = field(repr=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.folder.record.class_names

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared, as in the run's evaluation."""
        return self.folder.record.preprocessing

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The run's metrics by split; shares in [0, 1], losses in nats."""
        return self.folder.record.metrics

    def predict(self, images: Sequence[ImageLike], *, top_k: int = 5, batch_size: int = 32) -> list[Prediction]:
        """Return a prediction for each image, in order, computed on the CPU.

        Args:
            images: paths of image files, their bytes, PIL images, or uint8 RGB arrays (H, W, 3) or grey ones (H, W),
                mixed freely.
            top_k: classes in each prediction's `top`, at most the number of classes.
            batch_size: images that are in memory at a time.

        Raises:
            UserError: an image cannot be read (the message names its file or position), the network's outputs are not
                finite or of other classes, or `batch_size` or `top_k` is below 1.
        """
        if isinstance(images, (str, Path)):
            raise BadValue(f"`images`={images!r}: pass a list of images")
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            check_count(name, value)
        decoding = self.folder.record.decoding
        predictions: list[Prediction] = []
        for start in range(0, len(images), batch_size):
            batch = enumerate(images[start : start + batch_size], start)
            predictions += self.predictions(
                [image_pixels(image, position, decoding) for position, image in batch], top_k
            )
        return predictions

    def predictions(self, images: Sequence[Pixels], top_k: int) -> list[Prediction]:
        """Return a prediction for each decoded image, RGB (H, W, 3) of any size; see `predict`."""
        record = self.folder.record
        logits = self.outputs(images).logits / record.temperature
        probabilities = _as_probabilities(logits, record.multilabel)
        return [read_prediction(row, record.class_names, top_k, record.label_threshold) for row in probabilities]

    def outputs(self, images: Sequence[Pixels]) -> Outputs:
        """Return logits (N, C) and pooled features (N, F) of decoded images, RGB (H, W, 3) of any sizes.

        Raises:
            DamagedFile: they are not finite, or of another number of classes.
        """
        outputs = self.model(images)
        if outputs.logits.shape[1] != len(self.class_names):
            raise DamagedFile(
                f"{self.folder.path}: its {self.format} has {outputs.logits.shape[1]} classes, its model.json"
                f" {len(self.class_names)}"
            )
        if not np.isfinite(outputs.logits).all():
            raise DamagedFile(f"{self.folder.path}: the network's outputs are not finite numbers for an image")
        return outputs


def _as_probabilities(logits: NDArray[np.float32], multilabel: bool) -> NDArray[np.float32]:
    logits = logits.astype(np.float64)
    if multilabel:
        return np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return (shifted / shifted.sum(1, keepdims=True)).astype(np.float32)


def load_bundle(path: str | Path, format: str | None = None) -> Bundle:
    """Return a bundle of `efficientnet-transfer export`; nothing is downloaded, unpickled or imported from it.

    Args:
        path: its folder or zip file.
        format: what computes the network; None: `openvino`, else `onnx`, else `safetensors` by PyTorch, whichever is
            held and installed first. Only `safetensors` imports torch.

    Raises:
        MissingData: there is no bundle, a file is missing, or a package.
        DamagedFile: a file was changed since it was written, is of a newer version, or not what it should be.
        BadValue: the bundle does not hold the format; or it is `torch`, whose file can execute code.
    """
    folder = open_folder(path)
    format = choose_format(folder, format)
    return Bundle(folder, format, open_model(folder, format))
