"""What torch says of images with other channels than a network's, in the user's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from transfer.errors import BadValue

_MISMATCH = re.compile(r"expected input\[.*\] to have (\d+) channels, but got (\d+) channels")


@contextmanager
def channels_explained(images: Tensor) -> Iterator[None]:
    """Turn a convolution's refusal of a network's own input into a BadValue; one inside the network is a bug.

    Args:
        images: the network's input.

    Raises:
        BadValue: the network takes another number of channels.
    """
    try:
        yield
    except RuntimeError as error:
        found = _MISMATCH.search(str(error))
        if found is None or images.ndim < 3 or int(found[2]) != images.shape[-3]:
            raise
        takes, given = found.groups()
        raise BadValue(
            f"the network takes images of {takes} channel{'s' * (takes != '1')}, (N, {takes}, H, W), and was given"
            f" shape {tuple(images.shape)}: convert the images, which a datamodule with"
            f" `preprocessing`=classifier.preprocessing does, or build the network with `in_channels`={given}"
        ) from None
