"""Write a bundle: the network in every format, proven on golden inputs, and compared on the images of val."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.bundle.agreement import (
    collect_logits,
    milliseconds_per_image,
    relative_difference,
    same_classes,
)
from transfer.bundle.card import READER, README, write_card
from transfer.bundle.checking import TOLERANCE
from transfer.bundle.eight_bits import Parts, parts_in_8_bits
from transfer.bundle.folder import BundleFolder
from transfer.bundle.formats import FORMATS, Model, open_format, write_format
from transfer.bundle.golden import FOLDER, Golden, read_golden, read_inputs, write_index, write_inputs
from transfer.bundle.models import INT8
from transfer.bundle.record import TENSORS, Agreement, Loss, Record, write_record
from transfer.bundle.tensors import TorchNetwork, tensors_file
from transfer.environment import cpu_name
from transfer.errors import BadValue
from transfer.files import file_sha256
from transfer.images.decode import Pixels, decode_image
from transfer.inference.packages import num_threads
from transfer.networks.ensemble import Ensemble
from transfer.records import Interval
from transfer.resampling import paired_bootstrap
from transfer.run_files import CALIBRATION


@dataclass(frozen=True)
class Examples:
    """Images of val, on which formats are compared.

    Attributes:
        batches: decoded images, read anew in each pass.
        labels: theirs, class indices (N,) or multi-hot (N, C).
        num_seen: how many of them the network was trained on.
    """

    batches: Sequence[Sequence[Pixels]]
    labels: NDArray[Any]
    num_seen: int


@dataclass(frozen=True)
class Source:
    """What a bundle is made of.

    Attributes:
        network: the classifiers of the runs, in eval mode on the CPU.
        record: what is known of it; its formats and files are found here.
        files: encoded golden inputs; of a bundle that is exported again, none.
        examples: images of val; None: only the golden inputs are at hand.
        train_pixels: prepared training images, from which 8 bits take their ranges. Shape: (M, S, S, C)
        calibration: content of the calibration file.
        former: the bundle that is exported again.
    """

    network: Ensemble
    record: Record
    files: Sequence[bytes] = ()
    examples: Examples | None = None
    train_pixels: NDArray[np.uint8] | None = None
    calibration: bytes | None = None
    former: BundleFolder | None = None


def write_bundle(source: Source, folder: Path, formats: Sequence[str], max_drop: float) -> Record:
    """Write all files of a bundle into an empty folder, and return its record.

    Formats of 8 bits of a bundle that is exported again are taken over, as no training images are at hand. A format's
    comparison is taken over where its files are still the same bytes.

    Args:
        source: what it is made of.
        folder: the folder.
        formats: names in `FORMATS`, in their order.
        max_drop: the accuracy that 8 bits may cost on val, in percentage points.

    Raises:
        BadValue: a float32 format answers otherwise than the network, or 8 bits cost more than `max_drop`.
        UserError: a format cannot be written or opened.
    """
    record = source.record
    (folder / TENSORS).write_bytes(tensors_file(source.network))
    network = TorchNetwork(source.network, record.preprocessing)
    golden, decoded = _golden(source, folder, network)
    for name in formats:
        if source.former is not None and name.endswith(INT8):
            _take_over(source.former, folder, FORMATS[name].files)
        else:
            write_format(
                name,
                source.network,
                record.preprocessing,
                folder,
                temperature=record.temperature,
                multilabel=record.multilabel,
                calibration_pixels=source.train_pixels,
            )
    models = {name: open_format(name, folder, record.preprocessing, trusted=True) for name in formats}
    own_logits = _prove(models, golden, decoded)
    known = _known_agreements(source.former, folder, formats)
    measured = {name: model for name, model in models.items() if name not in known}
    parts = parts_in_8_bits(source.network)
    found = known | _measure(measured, network, source.examples, decoded, record, parts, max_drop)
    if source.former is not None:
        own_logits = read_golden(source.former).own_logits
    write_index(folder, replace(golden, own_logits={name: own_logits[name] for name in formats if name in own_logits}))
    if source.calibration is not None:
        (folder / CALIBRATION).write_bytes(source.calibration)
    if "onnx" in formats:
        (folder / READER).write_bytes(files("transfer.bundle").joinpath("reader.py").read_bytes())
    record = replace(record, formats={name: found[name] for name in formats})
    (folder / README).write_text(write_card(record), encoding="utf-8")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    record = replace(record, files={name: file_sha256(folder / name) for name in names})
    write_record(folder, record)
    return record


def _golden(source: Source, folder: Path, network: Model) -> tuple[Golden, list[Pixels]]:
    """Write the golden inputs, or take those of the former bundle over; return them, without own logits, decoded."""
    if source.former is not None:
        golden = read_golden(source.former)
        _take_over(
            source.former, folder, [f"{FOLDER}/{name}" for row in golden.inputs for name in (row.file, row.pixels)]
        )
        return replace(golden, own_logits={}), read_inputs(source.former, golden)
    decoded = [decode_image(encoded, source.record.decoding) for encoded in source.files]
    logits = network(decoded).logits
    return write_inputs(folder, source.files, decoded, logits, source.record.preprocessing), decoded


def _take_over(former: BundleFolder, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(former.file(name).read_bytes())


def _prove(models: dict[str, Model], golden: Golden, decoded: Sequence[Pixels]) -> dict[str, list[list[float]]]:
    """Check that float32 formats answer golden inputs as the network does; return the own logits of the others."""
    own: dict[str, list[list[float]]] = {}
    for name, model in models.items():
        logits = model(decoded).logits
        if name.endswith(INT8):
            own[name] = logits.tolist()
        elif (difference := relative_difference(logits, golden.logits())) > TOLERANCE:
            raise BadValue(
                f"`format`={name}: its logits of the golden inputs differ from PyTorch's by {difference:.1e} of the"
                f" largest (allowed: {TOLERANCE:g}): it is not written; leave it out"
            )
    return own


def _known_agreements(former: BundleFolder | None, folder: Path, formats: Sequence[str]) -> dict[str, Agreement]:
    """Return the comparisons of the former bundle whose formats are still the same bytes."""
    if former is None:
        return {}
    return {
        name: former.record.formats[name]
        for name in formats
        if name in former.record.formats
        and all(former.record.files.get(file) == file_sha256(folder / file) for file in FORMATS[name].files)
    }


def _measure(
    models: dict[str, Model],
    network: Model,
    examples: Examples | None,
    decoded: Sequence[Pixels],
    record: Record,
    parts: Parts,
    max_drop: float,
) -> dict[str, Agreement]:
    """Return how close each format comes on val, or else on the golden inputs."""
    if not models:
        return {}
    batches = [decoded] if examples is None else examples.batches
    logits = collect_logits({"": network, **models}, batches)
    expected = logits.pop("")
    threads = num_threads()
    processor = f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}"
    return {
        name: Agreement(
            images="golden" if examples is None else "val",
            num_images=len(mine),
            num_seen=0 if examples is None else examples.num_seen,
            largest_difference=float(np.abs(mine.astype(np.float64) - expected).max()),
            relative_difference=relative_difference(mine, expected),
            same_top1=same_classes(mine, expected) / len(mine),
            parts=parts if name.endswith(INT8) else None,
            loss=_checked_loss(f"{name} ({parts} in 8 bits)", mine, expected, examples, record, max_drop)
            if name.endswith(INT8)
            else None,
            milliseconds=milliseconds_per_image(models[name], batches[0]),
            cpu=processor,
        )
        for name, mine in logits.items()
    }


def _checked_loss(
    name: str,
    mine: NDArray[np.float32],
    expected: NDArray[np.float32],
    examples: Examples | None,
    record: Record,
    max_drop: float,
) -> Loss:
    """Return what a format of 8 bits costs, unless it is too much."""
    if examples is None:
        raise BadValue("`int8`=True: without a val split nobody can say what 8 bits cost; leave it out")
    loss = _loss(mine, expected, examples.labels, record)
    if 100 * loss.drop > max_drop:
        raise BadValue(
            f"`int8`=True: of {len(mine):,} val images, {name} answers {loss}, where a loss of `max_drop`={max_drop:g}"
            " points is allowed: nothing is written; leave `int8` out, or allow more"
        )
    return loss


def _loss(mine: NDArray[np.float32], expected: NDArray[np.float32], labels: NDArray[Any], record: Record) -> Loss:
    """Return what a format of 8 bits costs; with several labels per image, each of them is an answer."""
    if record.multilabel:
        with np.errstate(divide="ignore"):
            limit = record.temperature * (np.log(record.threshold) - np.log1p(-record.threshold))
        truth = labels.astype(np.int64).ravel()
        answers = [(logits >= limit).astype(np.int64).ravel() for logits in (expected, mine)]
    else:
        truth, answers = labels, [logits.argmax(1) for logits in (expected, mine)]
    found = paired_bootstrap(truth, answers[0], answers[1])
    shares = [float((answer == truth).mean()) for answer in answers]
    return Loss(float32=shares[0], accuracy=shares[1], drop=found.value, interval=Interval(found.low, found.high))
