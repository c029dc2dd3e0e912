"""A calibration as a safetensors file, which numpy reads without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.calibration.calibration import Calibration
from transfer.calibration.temperature import TemperatureFit, num_folds
from transfer.errors import DamagedFile
from transfer.files import open_regular, written_whole
from transfer.records import checked

Array = NDArray[Any]

SCHEMA_VERSION = 1
_FORMAT = "efficientnet-transfer calibration"
_KINDS = {"logits": "float32", "targets": "int64 or bool", "distances": "float32", "references": "float16"}
MOST_BYTES = 2**28  # that are read


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration whole or not at all."""
    with written_whole(path) as file:
        file.write(calibration_file(calibration))


def calibration_file(calibration: Calibration) -> bytes:
    """Return the content of a calibration's file; the same one gives the same bytes."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(getattr(calibration, name)) for name in _KINDS}
    facts = {"schema_version": SCHEMA_VERSION, "network": calibration.network, **asdict(calibration.fit)}
    return save(arrays, {_FORMAT: json.dumps(facts)})


def load_calibration(path: Path) -> Calibration:
    """Return the calibration in a file.

    Raises:
        MissingData: there is no such file.
        DamagedFile: it is another file, damaged, or of a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with open_regular(path) as file:
        content = file.read(MOST_BYTES)
    try:
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header["__metadata__"][_FORMAT])
        version = facts.pop("schema_version")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedFile(f"{path}: damaged, or not a calibration of efficientnet-transfer") from None
    if type(version) is not int or version > SCHEMA_VERSION:
        raise DamagedFile(
            f"{path}: schema version {version} (readable here: at most {SCHEMA_VERSION}); update efficientnet-transfer"
        )
    network = facts.pop("network", None)
    fit = checked(facts, TemperatureFit, path)
    problem = _missing(arrays) or _misfit(**{name: arrays[name] for name in _KINDS})
    if problem is None and not (isinstance(network, str) and _is_possible(fit, len(arrays["logits"]))):
        problem = f"temperature {fit.temperature:g}"
    if problem is not None:
        raise DamagedFile(f"{path}: damaged: {problem}")
    return Calibration(
        fit, arrays["logits"], arrays["targets"], arrays["distances"], arrays["references"], network=network
    )


def _missing(arrays: Mapping[str, Array]) -> str | None:
    """Return which array is not there or of another kind, if one is."""
    for name, kind in _KINDS.items():
        found = str(arrays[name].dtype) if name in arrays else "missing"
        if found not in kind.split(" or "):
            return f"{name}: {found} (needed: {kind})"
        if found.startswith("float") and not np.isfinite(arrays[name]).all():
            return f"{name}: not finite"
    return None


def _misfit(logits: Array, targets: Array, distances: Array, references: Array) -> str | None:
    """Return which arrays do not fit together, if some do not."""
    shapes = [array.shape for array in (logits, targets, distances, references)]
    if logits.ndim != 2 or references.ndim != 2 or min(*logits.shape, *references.shape) < 1:
        return f"arrays of {shapes}"
    whole = logits.shape if targets.dtype == bool else logits.shape[:1]
    if (targets.shape, distances.shape) != (whole, logits.shape[:1]):
        return f"arrays of {shapes}"
    if targets.dtype != bool and (targets.min() < 0 or targets.max() >= logits.shape[1]):
        return f"a target outside of 0..{logits.shape[1] - 1}"
    return None


def _is_possible(fit: TemperatureFit, num_images: int) -> bool:
    in_range = all(0 < value < 20 for value in (fit.temperature, *fit.by_fold))
    return in_range and len(fit.by_fold) == num_folds(num_images)
