"""A calibration as a safetensors file, which numpy reads without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.calibration.calibration import Calibration
from transfer.calibration.temperature import TemperatureFit
from transfer.errors import DamagedFile
from transfer.files import open_regular, written_whole
from transfer.records import checked

SCHEMA_VERSION = 1
_FORMAT = "efficientnet-transfer calibration"
_KINDS = {"logits": "float32", "targets": "int64 or bool", "distances": "float32", "references": "float16"}
_MOST_BYTES = 2**28


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration whole or not at all; the same one gives the same bytes."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(getattr(calibration, name)) for name in _KINDS}
    facts = {"schema_version": SCHEMA_VERSION, "network": calibration.network, **asdict(calibration.fit)}
    with written_whole(path) as file:
        file.write(save(arrays, {_FORMAT: json.dumps(facts)}))


def load_calibration(path: Path) -> Calibration:
    """Return the calibration in a file.

    Raises:
        MissingData: there is no such file.
        DamagedFile: it is another file, damaged, or of a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with open_regular(path) as file:
        content = file.read(_MOST_BYTES)
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
    found = {name: arrays.get(name) for name in _KINDS}
    problem = _problem(found, fit, network)
    if problem is not None:
        raise DamagedFile(f"{path}: damaged: {problem}")
    return Calibration(fit, **found, network=network)


def _problem(arrays: dict[str, NDArray[Any] | None], fit: TemperatureFit, network: Any) -> str | None:
    """Return what no calibration holds, if there is something."""
    for name, kind in _KINDS.items():
        array = arrays[name]
        if array is None or str(array.dtype) not in kind.split(" or "):
            return f"{name}: {'missing' if array is None else array.dtype} (needed: {kind})"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name}: not finite"
    logits, targets, distances, references = arrays.values()
    assert logits is not None and targets is not None and distances is not None and references is not None
    whole = logits.shape if targets.dtype == bool else logits.shape[:1]
    shapes_fit = targets.shape == whole and distances.shape == logits.shape[:1]
    if logits.ndim != 2 or references.ndim != 2 or not shapes_fit or min(*logits.shape, len(references)) < 1:
        return "arrays of " + ", ".join(f"{name} {array.shape}" for name, array in arrays.items() if array is not None)
    if targets.dtype != bool and not (0 <= targets.min() and targets.max() < logits.shape[1]):
        return f"a target outside of 0..{logits.shape[1] - 1}"
    if not isinstance(network, str) or not all(0.05 < value < 20 for value in (fit.temperature, *fit.by_fold)):
        return f"temperature {fit.temperature:g}"
    return None if len(fit.by_fold) == min(5, len(logits)) else f"{len(fit.by_fold)} folds"
