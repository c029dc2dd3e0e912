"""What a bundle answers when several threads ask it at the same time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from threading import Semaphore
from typing import NotRequired

from typing_extensions import TypedDict  # which pydantic wants before Python 3.12

from transfer.bundle.bundle import Bundle
from transfer.bundle.checking import Check, check_opened
from transfer.calibration.guarantees import UNKNOWN, Guarantees
from transfer.errors import DamagedFile
from transfer.images.decode import BadImageError, decode_image, image_shape
from transfer.inference.packages import num_threads
from transfer.predictions import Prediction
from transfer.serving.limits import Limits
from transfer.serving.uploads import Upload, too_many_pixels

# The keys are words of JSON: `class` is no name in Python.
Share = TypedDict("Share", {"class": str, "probability": float})
Entry = TypedDict(
    "Entry",
    {
        "name": str,
        "class": NotRequired[str],
        "probability": NotRequired[float],
        "top": NotRequired[list[Share]],
        "labels": NotRequired[list[Share]],
        "unknown": NotRequired[bool],
        "set": NotRequired[list[str]],
        "error": NotRequired[str],
    },
)


class Service:
    """A bundle whose one network computes for all threads; they decode in parallel.

    OpenVINO computes an image on one core, and several images at the same time. The others compute an image on all
    cores, so one at a time.

    Args:
        bundle: the bundle.
        limits: `max_pixels` is the photos' limit here.
        guarantees: by which rule a photo's class is `unknown`, and how sure its set is; by default neither.
    """

    def __init__(self, bundle: Bundle, limits: Limits, guarantees: Guarantees = Guarantees()) -> None:  # noqa: B008
        self.bundle = bundle
        self.limits = limits
        self.guarantees = guarantees
        self._decoding = replace(bundle.folder.record.decoding, max_pixels=limits.max_pixels)
        self._network = Semaphore(num_threads() if bundle.format.startswith("openvino") else 1)

    def predict(self, uploads: Sequence[Upload], top_k: int) -> list[Entry]:
        """Return an answer for each file, in order: its classes, or an `error` in words.

        Raises:
            HTTPException: 413, before any is decoded, if one has too many pixels.
        """
        for upload in uploads:
            self._check_size(upload)
        return [self._entry(upload, top_k) for upload in uploads]

    def check(self) -> Check:
        """Return how the golden inputs are answered now, by the network that answers requests.

        Raises:
            UserError: a file of the bundle is no longer what it was.
        """
        with self._network:
            return check_opened(self.bundle)

    def _check_size(self, upload: Upload) -> None:
        try:
            height, width = image_shape(upload.encoded, sys.maxsize)
        except BadImageError:
            return  # decoding says why
        if height * width > self.limits.max_pixels:
            raise too_many_pixels(upload.name, height, width, self.limits)

    def _entry(self, upload: Upload, top_k: int) -> Entry:
        try:
            pixels = decode_image(upload.encoded, self._decoding)
            with self._network:
                (prediction,) = self.bundle.predictions([pixels], top_k, self.guarantees)
        except DamagedFile as error:
            return {"name": upload.name, "error": str(error)}
        return self._answer(upload.name, prediction)

    def _answer(self, name: str, prediction: Prediction) -> Entry:
        top = _shares(prediction.top)
        entry: Entry = {"name": name, "class": top[0]["class"], "probability": top[0]["probability"], "top": top}
        if self.bundle.folder.record.multilabel:
            entry["labels"] = [] if prediction.unknown else _shares(prediction.labels)
        if self.guarantees.abstain:
            entry["unknown"] = prediction.unknown
        if prediction.unknown:
            entry["class"] = UNKNOWN
        if prediction.class_set is not None:
            entry["set"] = list(prediction.class_set)
        return entry


def _shares(ranked: Sequence[tuple[str, float]]) -> list[Share]:
    return [{"class": name, "probability": round(value, 6)} for name, value in ranked]
