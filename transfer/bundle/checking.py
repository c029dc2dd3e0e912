"""Check a bundle where it is to run: its files' digests, and the golden inputs from the file to the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer.bundle.agreement import relative_difference, same_classes
from transfer.bundle.bundle import Bundle
from transfer.bundle.folder import BundleFolder
from transfer.bundle.formats import FORMATS, Model
from transfer.bundle.golden import Golden, pixel_difference, read_golden, read_inputs
from transfer.bundle.models import choose_format, list_formats, missing_package, open_model
from transfer.errors import BadValue
from transfer.images.decode import Pixels

# Difference of logits, as a share of the largest one. In 8 bits the same processor has none, and another kind (AVX2 in
# place of AVX-512) far more. That is told, too.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Answer:
    """What a format answered to the golden inputs.

    Attributes:
        format: its name.
        difference: largest difference from the logits that were stored, as a share of the largest logit.
        same: inputs with the same most probable class.
        num_inputs: how many there are.
    """

    format: str
    difference: float
    same: int
    num_inputs: int

    @property
    def deviates(self) -> bool:
        """Whether it is another answer."""
        return not self.difference <= TOLERANCE or self.same < self.num_inputs


@dataclass(frozen=True)
class Check:
    """What became of the golden inputs.

    Attributes:
        pixels: largest difference of the pixels after preprocessing, in 0..255.
        answers: of each format that was opened.
        left_out: formats that were not, with the reason.
    """

    pixels: int
    answers: tuple[Answer, ...]
    left_out: dict[str, str]

    @property
    def deviates(self) -> bool:
        """Whether pixels or logits are others than where the bundle was written."""
        return self.pixels > 0 or any(answer.deviates for answer in self.answers)


def check_bundle(bundle: BundleFolder, formats: Sequence[str] | None = None, trusted: bool = False) -> Check:
    """Compare the digests of all files, then the golden inputs in each format.

    Args:
        bundle: the bundle.
        formats: which ones; None: all whose packages are installed.
        trusted: whether code in files of formats may be executed; otherwise those that can hold some are left out.

    Raises:
        MissingData, DamagedFile: a file is missing or was changed, or is no network of this kind; or a package of one
            of `formats` is not installed.
        BadValue: the bundle does not hold one of `formats`, or one of them can hold code, which may not be executed.
    """
    bundle.check_files()
    golden = read_golden(bundle)
    decoded = read_inputs(bundle, golden)
    answers, left_out = [], {}
    for name in list_formats(bundle) if formats is None else [choose_format(bundle, name) for name in formats]:
        reason = missing_package(name)
        if reason is None and not trusted and name in FORMATS and FORMATS[name].holds_code:
            reason = "opening its file can execute code in it: `allow_user_code`=True checks it, too"
            if formats is not None:
                raise BadValue(f"`format`={name}: {reason}")
        if reason is not None:
            left_out[name] = reason
            continue
        answers.append(_answer(name, open_model(bundle, name, trusted), golden, decoded))
    return Check(pixel_difference(bundle, golden, decoded), tuple(answers), left_out)


def check_opened(bundle: Bundle) -> Check:
    """Compare the digests of all files, then the golden inputs in the one format that is open already.

    Raises:
        MissingData, DamagedFile: a file is missing or was changed.
    """
    bundle.folder.check_files()
    golden = read_golden(bundle.folder)
    decoded = read_inputs(bundle.folder, golden)
    answer = _answer(bundle.format, bundle.model, golden, decoded)
    return Check(pixel_difference(bundle.folder, golden, decoded), (answer,), {})


def _answer(name: str, model: Model, golden: Golden, decoded: Sequence[Pixels]) -> Answer:
    expected, found = golden.logits(name), model(decoded).logits
    if found.shape != expected.shape:
        return Answer(name, float(np.inf), 0, len(decoded))
    return Answer(name, relative_difference(found, expected), same_classes(found, expected), len(decoded))
