"""What a trained network says of one image, and the kinds of images that it is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from transfer.errors import BadValue, DamagedFile, check_count
from transfer.files import expanded
from transfer.images.decode import Pixels, decode_image, upright_pixels
from transfer.images.depth import Decoding

ImageLike = str | Path | bytes | Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        class_name: the most probable class.
        probability: probability of that class, in [0, 1].
        top: the k most probable classes with their probabilities, most probable first.
        labels: what the image shows: the most probable class, or for a multi-label run every class from the
            threshold on, with their probabilities, most probable first.
        probabilities: probabilities of all classes in class order, float32 (C,). They sum to 1, except for a
            multi-label run, whose classes are independent.
        unknown: whether the image is left unanswered; see `transfer.calibration.rejection`.
        class_set: the classes that the image may be of, most probable first, where sets were asked for; see
            `transfer.calibration.conformal`.
    """

    class_name: str
    probability: float
    top: tuple[tuple[str, float], ...]
    labels: tuple[tuple[str, float], ...]
    probabilities: NDArray[np.float32]
    unknown: bool = False
    class_set: tuple[str, ...] | None = None


def read_prediction(
    probabilities: NDArray[np.float32], class_names: Sequence[str], top_k: int, threshold: float | None = None
) -> Prediction:
    """Return what the probabilities of all classes say of one image.

    Args:
        probabilities: in class order. Shape: (C,)
        class_names: names of the classes.
        top_k: classes in `top`.
        threshold: probability from which on a label is given, if an image may have several; None: it has one.
    """
    order = np.argsort(-probabilities, kind="stable")
    ranked = tuple((class_names[index], float(probabilities[index])) for index in order)
    labels = ranked[:1] if threshold is None else tuple((name, value) for name, value in ranked if value >= threshold)
    return Prediction(*ranked[0], ranked[:top_k], labels, probabilities)


def decoded_batches(
    images: Sequence[ImageLike], batch_size: int, top_k: int, decoding: Decoding
) -> Iterator[Iterator[Pixels]]:
    """Return the images' pixels in batches, each decoded when it is asked for.

    Raises:
        BadValue: `images` is a single path, or `batch_size` or `top_k` is below 1.
    """
    if isinstance(images, (str, Path)):
        raise BadValue(f"`images`={images!r}: pass a list of images")
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        check_count(name, value)
    return (
        (image_pixels(image, place, decoding) for place, image in enumerate(images[start : start + batch_size], start))
        for start in range(0, len(images), batch_size)
    )


def image_pixels(image: ImageLike, position: int, decoding: Decoding) -> Pixels:
    """Return an image of any kind that is predicted as RGB pixels, uint8 (H, W, 3).

    Args:
        image: see `Run.predict`.
        position: its place in `images`, for the message.
        decoding: how encoded images become pixels.

    Raises:
        DamagedFile: it cannot be read; the text names its file or position.
        BadValue: it is no image.
    """
    name = str(image) if isinstance(image, (str, Path)) else f"`images`[{position}]"
    try:
        if isinstance(image, (str, Path)):
            return decode_image(expanded(image), decoding)
        if isinstance(image, bytes):
            return decode_image(image, decoding)
        if isinstance(image, Image):
            return upright_pixels(image, decoding)
    except (OSError, DamagedFile) as error:  # Pillow reads an image's pixels when they are first needed
        raise DamagedFile(f"{name}: {error}") from error
    if not isinstance(image, np.ndarray):
        raise BadValue(f"{name}: {type(image).__name__} (allowed: a path, bytes of a file, a PIL image or an array)")
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise BadValue(
            f"{name}: an array of {image.dtype} {image.shape} (allowed: uint8 (H, W, 3) in RGB, or grey (H, W))"
        )
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
