"""A run's checkpoint: what it holds of the classifier and of the data, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from transfer.errors import DamagedFile
from transfer.networks.classifier import Classifier
from transfer.preprocessing import INTERPOLATIONS, RESIZES, Preprocessing
from transfer.training.checkpointing import AtomicCheckpointIO
from transfer.weights.files import find_tensors
from transfer.weights.integrity import check_numbers


def save_classifier(path: Path, classifier: Classifier, data: Mapping[str, Any]) -> None:
    """Write a checkpoint that `load_run` reads, for a classifier that was trained without a Trainer, atomically.

    Args:
        path: the checkpoint file.
        classifier: the classifier.
        data: the datamodule's `state_dict()`.
    """
    state = {f"classifier.{name}": tensor for name, tensor in classifier.state_dict().items()}
    AtomicCheckpointIO().save_checkpoint({"state_dict": state, "data": dict(data)}, path)


def classifier_state(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the classifier's tensors in a run's checkpoint: with EMA, the averaged ones.

    Args:
        content: the checkpoint's content; see `read_checkpoint`.
        path: its path, for the message.

    Raises:
        DamagedFile: it holds no tensors by name, or they are no network's numbers.
    """
    prefix = "classifier."  # attribute of the trained module; its other tensors belong to metrics
    tensors = find_tensors(content, path).items()
    state = {key.removeprefix(prefix): tensor for key, tensor in tensors if key.startswith(prefix)}
    check_numbers(state, path)
    return state


def read_preprocessing(entries: Any, path: Path) -> Preprocessing:
    """Return the preprocessing in what a file says of it.

    Args:
        entries: values by the names of `Preprocessing`'s fields.
        path: the file, for the message.

    Raises:
        DamagedFile: one is missing, unknown or out of range.
    """
    try:
        found = Preprocessing.from_entries(entries)
        numbers = (found.crop_ratio, *found.mean, *found.std)
        valid = (
            type(found.image_size) is int
            and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
            and min(found.image_size, found.crop_ratio, *found.std) > 0
            and (len(found.mean), len(found.std)) in ((1, 1), (3, 3))
            and found.interpolation in INTERPOLATIONS
            and found.resize in RESIZES
            and all(known is None or _is_range(known) for known in (found.integer_range, found.float_range))
        )
    except (AttributeError, TypeError, KeyError, ValueError):
        valid = False
    if not valid:
        raise DamagedFile(
            f"{path}: its preprocessing is {str(entries)[:200]}"
            f" (needed: {', '.join(Preprocessing.__dataclass_fields__)}; sizes and std above 0)"
        )
    return found


def _is_range(values: Sequence[float]) -> bool:
    return len(values) == 2 and all(math.isfinite(value) for value in values) and values[0] < values[1]


def datamodule_state(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what the datamodule saved in a checkpoint; Lightning stores it under the name of the datamodule's class.

    Args:
        content: the checkpoint's content.
        path: the checkpoint's path, for the message.

    Raises:
        UserError: the checkpoint holds no state of a datamodule.
    """
    for value in content.values():
        if isinstance(value, dict) and "class_names" in value:
            names = value["class_names"]
            if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
                raise DamagedFile(f"{path}: its class_names are {str(names)[:100]} (needed: a list of names)")
            return value
    raise DamagedFile(f"{path}: not a checkpoint of efficientnet-transfer finetune (it names no classes)")
