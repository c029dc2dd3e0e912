"""AutoAugment (Cubuk et al. 2019, arXiv:1805.09501): the published policies and the transform that applies them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from datamodules.images.ops import AUGMENT_OPS, build_op
from transfer.errors import unknown_name

# One operation of a sub-policy: name, probability, level 0..9 (which autocontrast, equalize and invert ignore).
Step = tuple[str, float, int]

# The paper's appendix, tables of the best policies on ImageNet and on (reduced) CIFAR-10; the same rows as in
# torchvision's AutoAugmentPolicy, the levels that play no role written as 0.
POLICIES: Mapping[str, tuple[tuple[Step, Step], ...]] = {
    "imagenet": (
        (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
        (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
        (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
        (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
        (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
        (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
        (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
        (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
        (("rotate", 0.8, 8), ("color", 0.4, 0)),
        (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
        (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("rotate", 0.8, 8), ("color", 1.0, 2)),
        (("color", 0.8, 8), ("solarize", 0.8, 7)),
        (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
        (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
        (("color", 0.4, 0), ("equalize", 0.6, 0)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
        (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    ),
    "cifar10": (
        (("invert", 0.1, 0), ("contrast", 0.2, 6)),
        (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
        (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
        (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
        (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
        (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
        (("color", 0.4, 3), ("brightness", 0.6, 7)),
        (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
        (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
        (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
        (("color", 0.7, 7), ("translate_x", 0.5, 8)),
        (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
        (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
        (("brightness", 0.9, 6), ("color", 0.2, 8)),
        (("solarize", 0.5, 2), ("invert", 0.0, 0)),
        (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
        (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
        (("color", 0.9, 9), ("equalize", 0.6, 0)),
        (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
        (("brightness", 0.1, 3), ("color", 0.7, 0)),
        (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
        (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
        (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
        (("equalize", 0.8, 0), ("invert", 0.1, 0)),
        (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
    ),
}

# A level counts tenths of the paper's range, as in the authors' code: the factors run from 0.1 to 1.9, so that level 5
# changes nothing; posterize keeps 4 to 8 bits, and solarize's threshold rises from 0 to 256.
_STRENGTHS: Mapping[str, Callable[[int], float]] = {
    **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), lambda level: level / 5 - 1),
    **dict.fromkeys(("posterize", "solarize"), lambda level: 1 - level / 10),
}


def op_strength(name: str, level: int) -> float:
    """Return the strength in `AUGMENT_OPS` of an operation's level 0..9; for shifts and rotations without the sign."""
    return _STRENGTHS[name](level) if name in _STRENGTHS else level / 10


def _has_random_sign(name: str) -> bool:
    return AUGMENT_OPS[name][0] and name not in _STRENGTHS


class AutoAugment(A.ImageOnlyTransform):
    """Applies one sub-policy, drawn uniformly: two operations, each with its own probability and a random direction.

    Args:
        policy: a name in `POLICIES`.

    Raises:
        BadValue: there is no such policy; the text lists them.
    """

    def __init__(self, policy: str) -> None:
        super().__init__(p=1)
        if policy not in POLICIES:
            raise unknown_name("AutoAugment policy", policy, POLICIES)
        self.policy = policy

    def get_params(self) -> dict[str, Any]:
        """Return the operations for one image, as (name, strength)."""
        ops = []
        for name, probability, level in self.py_random.choice(POLICIES[self.policy]):
            if self.py_random.random() < probability:
                strength = op_strength(name, level)
                backwards = _has_random_sign(name) and self.py_random.random() < 0.5
                ops.append((name, -strength if backwards else strength))
        return {"ops": ops}

    def apply(self, img: NDArray[np.uint8], ops: list[tuple[str, float]], **params: Any) -> NDArray[np.uint8]:
        """Return the image after the operations, in their order."""
        for name, strength in ops:
            img = build_op(name, strength)(image=img)["image"]
        return img
