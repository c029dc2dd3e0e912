"""A run's calibration: computed by its network on val, and read again for that network alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from transfer.calibration.calibration import Calibration, fit_calibration
from transfer.calibration.file import load_calibration
from transfer.errors import DamagedFile
from transfer.networks.classifier import Classifier
from transfer.run_files import BEST


@torch.inference_mode()
def calibrate(
    classifier: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    normalize: Callable[[Tensor], Tensor],
    device: torch.device,
) -> Calibration:
    """Return what images that a network was not trained on say about its answers.

    Args:
        classifier: the network; it is left in eval mode, on the device, in float32.
        batches: images as `normalize` takes them, and labels.
        normalize: makes them the network's, on the device.
        device: where to compute.

    Raises:
        UserError: see `fit_calibration`.
    """
    classifier.eval().to(device, torch.float32)
    outputs = [
        (*(tensor.cpu() for tensor in classifier.forward_with_features(normalize(images.to(device)))), labels)
        for images, labels in batches
    ]
    empty = torch.empty(0, classifier.num_classes)
    logits, features, labels = (torch.cat(part) for part in zip(*outputs, strict=True)) if outputs else (empty,) * 3
    return fit_calibration(logits.numpy(), labels.numpy(), features.numpy(), head_digest(classifier.head))


def head_digest(head: nn.Module) -> str:
    """Return 128 bits, in hex, of the tensors of a head, which are different in any two runs."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in head.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.cpu().float().numpy()).tobytes())
    return digest.hexdigest()


def read_calibration(path: Path, classifier: Classifier) -> Calibration | None:
    """Return the calibration in a run's folder; None if there is none.

    Raises:
        DamagedFile: it is damaged, of a newer version, or another network's.
    """
    if not path.exists():
        return None
    found = load_calibration(path)
    sizes = found.logits.shape[1], found.references.shape[1]
    if sizes != (classifier.num_classes, classifier.num_features) or found.network != head_digest(classifier.head):
        raise DamagedFile(
            f"{path} is of another network than {BEST} beside it: one of the two was replaced after the run had ended;"
            f" put the run's own back, or calibrate again: efficientnet-transfer evaluate {path.parent} --calibrate"
        )
    return found
