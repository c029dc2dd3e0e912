"""Load a bundle: a network with class names and preprocessing, ready to predict, without torch where it can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from transfer.bundle.folder import BundleFolder, open_folder
from transfer.bundle.formats import Model, Outputs
from transfer.bundle.models import choose_format, open_model
from transfer.calibration.calibration import Calibration
from transfer.calibration.file import load_calibration
from transfer.calibration.guarantees import Guarantees, keep
from transfer.calibration.temperature import as_probabilities
from transfer.errors import DamagedFile, MissingData
from transfer.images.decode import Pixels
from transfer.predictions import ImageLike, Prediction, decoded_batches, read_prediction
from transfer.preprocessing import Preprocessing
from transfer.run_files import CALIBRATION


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
        """The metrics by split, of several runs those of their average; shares in [0, 1], losses in nats."""
        return self.folder.record.metrics

    @cached_property
    def calibration(self) -> Calibration | None:
        """What val says about the answers; None where runs have none (in common), or are older.

        Raises:
            MissingData: its file is missing.
            DamagedFile: its file was changed since it was written, or is another network's.
        """
        if CALIBRATION not in self.folder.record.files:
            return None
        found = load_calibration(self.folder.file(CALIBRATION))
        if found.logits.shape[1] != len(self.class_names):
            raise DamagedFile(f"{self.folder.path / CALIBRATION}: of {found.logits.shape[1]} classes")
        return found

    def calibrated(self) -> Calibration:
        """Return the calibration.

        Raises:
            MissingData: the bundle has none.
        """
        if self.calibration is None:
            several = len(self.folder.record.members) > 1
            remedy = "export its run again, once it has one (efficientnet-transfer evaluate RUN --calibrate)"
            reason = "its runs share no val split, or its images were not there" if several else remedy
            raise MissingData(f"{self.folder.path} has no {CALIBRATION}: {reason}")
        return self.calibration

    def predict(
        self,
        images: Sequence[ImageLike],
        *,
        top_k: int = 5,
        batch_size: int = 32,
        guarantees: Guarantees = Guarantees(),  # noqa: B008  # frozen
    ) -> list[Prediction]:
        """Return a prediction for each image, in order, computed on the CPU; for the arguments see `Run.predict`.

        Raises:
            UserError: as `Run.predict`, or the network's outputs are of other classes.
        """
        predictions: list[Prediction] = []
        for batch in decoded_batches(images, batch_size, top_k, self.folder.record.decoding):
            predictions += self.predictions(list(batch), top_k, guarantees)
        return predictions

    def predictions(
        self,
        images: Sequence[Pixels],
        top_k: int,
        guarantees: Guarantees = Guarantees(),  # noqa: B008  # frozen
    ) -> list[Prediction]:
        """Return a prediction for each decoded image, RGB (H, W, 3) of any size; see `predict`."""
        record, outputs = self.folder.record, self.outputs(images)
        probabilities = as_probabilities(outputs.logits / record.temperature, record.multilabel).astype(np.float32)
        found = [read_prediction(row, record.class_names, top_k, record.label_threshold) for row in probabilities]
        if not guarantees:
            return found
        calibration = self.calibrated()
        if calibration.references.shape[1] != outputs.features.shape[1]:
            raise DamagedFile(f"{self.folder.path / CALIBRATION}: of another network")
        return keep(guarantees, calibration, found, outputs.logits, outputs.features, record.class_names)

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


def load_bundle(path: str | Path, format: str | None = None) -> Bundle:
    """Return a bundle of `efficientnet-transfer export`; nothing is downloaded, unpickled or imported from it.

    Args:
        path: its folder or zip file.
        format: what computes the network; None: `openvino`, else `onnx`, else `safetensors` by PyTorch, whichever is
            held and installed first. Only `safetensors` imports torch.

    Raises:
        MissingData: there is no bundle, a file is missing, or a package.
        DamagedFile: a file was changed since it was written, is of a newer version, or not what it should be.
        BadValue: the bundle does not hold the format; or it is `torch` or `torchscript`, whose file can execute code.
    """
    folder = open_folder(path)
    format = choose_format(folder, format)
    return Bundle(folder, format, open_model(folder, format))
