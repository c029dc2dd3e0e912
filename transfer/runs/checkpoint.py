"""A run's checkpoint: what it holds of the classifier and of the data, checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from transfer.errors import DamagedFile
from transfer.networks.classifier import Classifier
from transfer.weights.files import find_tensors
from transfer.weights.integrity import check_numbers


def save_classifier(path: Path, classifier: Classifier, data: Mapping[str, Any]) -> None:
    """Write a checkpoint that `load_run` reads, for a classifier that was trained without a Trainer, atomically.

    Args:
        path: the checkpoint file.
        classifier: the classifier.
        data: the datamodule's `state_dict()`.
    """
    from transfer.training.checkpointing import AtomicCheckpointIO  # imports Lightning, which takes seconds

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
