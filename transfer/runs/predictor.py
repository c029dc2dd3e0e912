"""Load a run: its trained classifier with class names and preprocessing, ready to predict."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transfer.calibration.calibration import Calibration
from transfer.calibration.guarantees import Guarantees, keep
from transfer.config.command_line import load_config
from transfer.config.recipes import user_code
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, DamagedFile, MissingData
from transfer.files import expanded
from transfer.images.depth import Decoding
from transfer.images.prepare import prepare_pixels, read_preprocessing
from transfer.inference.classifier import EngineClassifier
from transfer.inference.names import check_engine
from transfer.networks.classifier import Classifier
from transfer.networks.user_code import refuse_user_code
from transfer.predictions import ImageLike, Prediction, decoded_batches, read_prediction
from transfer.preprocessing import Preprocessing
from transfer.run_files import BEST, CALIBRATION, CONFIG, PROBE, RESULTS
from transfer.runs.calibrating import read_calibration
from transfer.runs.checkpoint import classifier_state, datamodule_state
from transfer.weights.build import classifier_from
from transfer.weights.files import read_checkpoint, strict_load
from transfer.weights.start import resolve_start


@dataclass(frozen=True)
class Run:
    """A trained classifier with everything needed to use it.

    Attributes:
        run_dir: the run's folder.
        config: the run's configuration.
        classifier: classifier with the checkpoint's tensors, in eval mode, on CPU, channels_last; see `with_engine`.
        class_names: names of the classes, in the order of the logits.
        preprocessing: how images are prepared, as in the run's evaluation.
        data: what the datamodule saved in the checkpoint, including fingerprints.
        threshold: probability from which on a multi-label run gives a label: the one with the best F1 on val, or one
            half where the run had no val split.
        calibration: what val says about the answers of the best checkpoint; its temperature is in all probabilities.
            None for a run without val, or an older one.
    """

    run_dir: Path
    config: FinetuneConfig = field(repr=False)
    classifier: Classifier = field(repr=False)
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    data: dict[str, Any] = field(repr=False)
    threshold: float = 0.5
    calibration: Calibration | None = field(default=None, repr=False)

    def with_engine(
        self, name: str = "auto", num_images: int | None = None, examples: Callable[[], Tensor] | None = None
    ) -> Run:
        """Return the run with a classifier whose logits an engine computes; `forward_features` stays PyTorch's.

        Args:
            name: `auto`, the fastest that agrees with float32 on 64 images; or `torch`, `torch-bf16`, `openvino`,
                `openvino-bf16`, `openvino-int8`, `onnxruntime`.
            num_images: how many images will be computed; for few of them `auto` is `torch`. None: very many.
            examples: returns these 64, normalised; None: the first that come, up to 64 of the first batch.

        Raises:
            BadValue: there is no such engine.
        """
        check_engine(name)
        threshold = self.threshold if self.config.data.multilabel else None
        images = sys.maxsize if num_images is None else num_images
        return replace(self, classifier=EngineClassifier(self.classifier, name, images, threshold, examples))

    def predict(
        self,
        images: Sequence[ImageLike],
        *,
        top_k: int = 5,
        batch_size: int = 64,
        guarantees: Guarantees = Guarantees(),  # noqa: B008  # frozen
    ) -> list[Prediction]:
        """Return a prediction for each image, in order; the network runs on the device of its parameters.

        Args:
            images: paths of image files, their bytes, PIL images, or uint8 RGB arrays (H, W, 3) or grey ones (H, W),
                mixed freely.
            top_k: classes in each prediction's `top`, at most the number of classes.
            batch_size: images that go through the network at a time.
            guarantees: which images are left unanswered, and sets of classes; by default none.

        Raises:
            UserError: an image cannot be read (the message names its file or position), the network's outputs are not
                finite, `batch_size` or `top_k` is below 1, or val cannot give the guarantees.
        """
        predictions: list[Prediction] = []
        for batch in decoded_batches(images, batch_size, top_k, self.decoding):
            pixels = [prepare_pixels(image, self.preprocessing) for image in batch]
            predictions += self.predictions(torch.from_numpy(np.stack(pixels)), top_k, guarantees)
        return predictions

    def predictions(self, images: Tensor, top_k: int, guarantees: Guarantees) -> list[Prediction]:
        """Return a prediction for each image; for the arguments see `probabilities` and `predict`."""
        from datamodules.images.transforms import normalize

        if not guarantees:
            return [self.prediction(row, top_k) for row in self.probabilities(images).cpu().numpy()]
        calibration = self.calibrated()
        normalized = normalize(images.to(next(self.classifier.parameters()).device), self.preprocessing)
        with torch.inference_mode():
            logits, features = self.classifier.forward_with_features(normalized)
        found = [self.prediction(row, top_k) for row in self.as_probabilities(logits).cpu().numpy()]
        return keep(guarantees, calibration, found, logits.cpu().numpy(), features.cpu().numpy(), self.class_names)

    def calibrated(self) -> Calibration:
        """Return the run's calibration.

        Raises:
            MissingData: it has none; the text says why.
        """
        if self.calibration is not None:
            return self.calibration
        if "val" not in self.data["fingerprint"]:
            reason = "without a val split nothing is known about its errors"
        elif (self.run_dir / CALIBRATION).exists():
            reason = f"its {CALIBRATION} is of the best checkpoint of a finished run"
        elif not (self.run_dir / RESULTS).is_file():
            reason = "it is unfinished"
        else:
            reason = f"write it: efficientnet-transfer evaluate {self.run_dir} --calibrate"
        raise MissingData(f"{self.run_dir} has no {CALIBRATION} for these answers: {reason}")

    @property
    def decoding(self) -> Decoding:
        """How image files become pixels, as in the run."""
        return Decoding.of(self.preprocessing, self.config.data.max_pixels)

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities of all classes, float32 (N, C), on the classifier's device.

        Args:
            images: uint8 (N, S, S, 3), prepared by the run's evaluation transform.

        Raises:
            DamagedFile: the network's outputs are not finite.
        """
        from datamodules.images.transforms import normalize

        device = next(self.classifier.parameters()).device
        with torch.inference_mode():
            return self.as_probabilities(self.classifier(normalize(images.to(device), self.preprocessing)))

    def as_probabilities(self, logits: Tensor) -> Tensor:
        """Return logits (N, C) as probabilities, float32, calibrated where the run is; of several labels, independent.

        Raises:
            DamagedFile: a logit is not finite.
        """
        self.check_finite(logits)
        logits = logits / self.temperature
        return (logits.sigmoid() if self.config.data.multilabel else logits.softmax(1)).float()

    def check_finite(self, outputs: Tensor) -> None:
        """Check that the network computed numbers.

        Raises:
            DamagedFile: some are infinite or not a number.
        """
        if not outputs.isfinite().all():
            raise DamagedFile(
                f"{self.run_dir}: the network's outputs are not finite numbers for an image: its checkpoint is damaged,"
                " or its training diverged"
            )

    def prediction(self, probabilities: NDArray[np.float32], top_k: int) -> Prediction:
        """Return what the probabilities of all classes, (C,), say of one image."""
        return read_prediction(probabilities, self.class_names, top_k, self.label_threshold)

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    @property
    def label_threshold(self) -> float | None:
        """Calibrated probability that gives the labels of `threshold`; None where an image has one label."""
        if not self.config.data.multilabel:
            return None
        return self.threshold if self.calibration is None else self.calibration.threshold(self.threshold)


def load_run(
    run_dir: str | Path, checkpoint: str = BEST, *, allow_user_code: bool = False, calibrated: bool = True
) -> Run:
    """Return a run from its folder; nothing else is read, and nothing is downloaded.

    Args:
        run_dir: the run's folder.
        checkpoint: `best.ckpt` or `last.ckpt`.
        allow_user_code: whether to import a backbone or a head of one's own that the run names, which runs code.
        calibrated: whether to read its calibration, too; without it, probabilities are those of the plain logits.

    Raises:
        UserError: the folder is not a run, its checkpoint is missing or damaged, or it names code to import.
    """
    run_dir = expanded(run_dir)
    config = load_config(run_dir / CONFIG)
    refuse_user_code(run_dir, user_code(config), allow_user_code)
    path = run_dir / checkpoint
    if not path.is_file():
        raise MissingData(
            f"{run_dir} has no {checkpoint}: the run stopped before its first validation; go on with `resume`={run_dir}"
        )
    content = read_checkpoint(path)
    if not (run_dir / RESULTS).is_file():
        warnings.warn(f"{run_dir} is unfinished (it has no {RESULTS}): this is its {checkpoint} so far", stacklevel=2)
    data = datamodule_state(content, path)
    entries = {part.name: data[part.name] for part in fields(Preprocessing) if part.name in data}
    preprocessing = read_preprocessing(entries, path)
    try:
        start = replace(resolve_start(**config.start_options()), preprocessing=preprocessing)
        classifier = classifier_from(
            start,
            len(data["class_names"]),
            class_names=data["class_names"],
            load_weights=False,
            **config.network_options(),
        )
    except BadValue as error:
        raise DamagedFile(f"{run_dir / CONFIG}: {error}") from None
    strict_load(classifier, classifier_state(content, path), source=str(path))
    classifier.threshold = _threshold(content, path)
    threshold = 0.5 if classifier.threshold is None else classifier.threshold
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
    has_calibration = calibrated and checkpoint == BEST and (run_dir / RESULTS).is_file()
    calibration = read_calibration(run_dir / CALIBRATION, classifier) if has_calibration else None
    names = tuple(data["class_names"])
    return Run(run_dir, config, classifier.eval(), names, preprocessing, data, threshold, calibration)


def _threshold(content: Mapping[str, Any], path: Path) -> float | None:
    found = content.get("threshold")
    if found is not None and not (isinstance(found, float) and 0 <= found <= 1):
        raise DamagedFile(f"{path}: its threshold is {found!r} (allowed: 0 to 1)")
    return found


def load_head(classifier: Classifier, config: FinetuneConfig, class_names: Sequence[str]) -> None:
    """Load the head of the run in `config.init_head` into a fresh classifier.

    Raises:
        UserError: `init_head` is not a run, or its head has another backbone, other weights, classes or kind of head.
    """
    assert config.init_head is not None
    saved = load_config(expanded(config.init_head) / CONFIG)
    own_code = user_code(saved) == user_code(config)
    run = load_run(config.init_head, allow_user_code=own_code, calibrated=False)
    differences = [
        f"{what} {theirs}, here {ours}"
        for what, theirs, ours in (
            ("`backbone`", run.classifier.backbone.variant.name, classifier.backbone.variant.name),
            ("num_features", run.classifier.backbone.num_features, classifier.backbone.num_features),
            ("`head`", run.config.head, config.head),
            ("classes", ", ".join(run.class_names), ", ".join(class_names)),
        )
        if theirs != ours
    ]
    if differences:
        raise BadValue("\n  ".join([f"`init_head`={config.init_head}: its head fits another network:", *differences]))
    strict_load(classifier.head, run.classifier.head.state_dict(), source=config.init_head)
    if (run.run_dir / PROBE).exists():
        warn_of_moving_statistics(config, "`init_head`")


def warn_of_moving_statistics(config: FinetuneConfig, source: str) -> None:
    """Warn if a probe's head, from `source`, meets other features in training than it was fitted to."""
    if config.bn != "frozen":
        from transfer.lightning import pl  # takes seconds, and predictions do without

        pl.utilities.rank_zero_warn(
            f"{source} with `bn`={config.bn}: a probe's head is fitted to features with the checkpoint's BatchNorm"
            " statistics, but training computes features with those of its batches. On images unlike the checkpoint's,"
            " the head has to relearn. `bn`=frozen starts where the probe ended; it needs a lower `lr`."
        )
