"""The network itself in a bundle: the classifier's tensors in safetensors, computed by PyTorch in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import save

from transfer.bundle.folder import BundleFolder
from transfer.bundle.formats import Outputs
from transfer.bundle.record import TENSORS, Network
from transfer.errors import BadValue, DamagedFile
from transfer.images.decode import Pixels
from transfer.images.prepare import normalized, prepare_pixels
from transfer.networks.classifier import Classifier
from transfer.networks.heads import HEADS
from transfer.networks.user_code import is_import_path
from transfer.preprocessing import Preprocessing
from transfer.weights.build import build_classifier
from transfer.weights.files import read_checkpoint, strict_load
from transfer.weights.integrity import check_numbers

_CHUNK = 32  # images that are in memory, prepared, at a time


class TorchClassifier:
    """A classifier as a `Model`: in eval mode on the CPU, as it was trained and with nothing folded.

    Args:
        classifier: the classifier.
        preprocessing: how images are prepared.
    """

    def __init__(self, classifier: Classifier, preprocessing: Preprocessing) -> None:
        self.classifier, self.preprocessing = classifier, preprocessing

    @torch.inference_mode()
    def __call__(self, images: Sequence[Pixels]) -> Outputs:
        logits, features = [], []
        for start in range(0, len(images), _CHUNK):
            pixels = np.stack([prepare_pixels(image, self.preprocessing) for image in images[start : start + _CHUNK]])
            batch = torch.from_numpy(normalized(pixels, self.preprocessing)).to(memory_format=torch.channels_last)
            pooled = self.classifier.forward_head(self.classifier.forward_features(batch), pre_logits=True)
            logits.append(self.classifier.head(pooled).numpy())
            features.append(pooled.numpy())
        return Outputs(np.concatenate(logits), np.concatenate(features))


def describe_network(classifier: Classifier) -> Network:
    """Return how to build a classifier again.

    Raises:
        BadValue: its backbone or head is code of the user's own, which a file of tensors does not hold.
    """
    built = classifier.build_arguments
    own = [name for name in (built["backbone"], built["head"]) if is_import_path(name)] if built else []
    if built is None or own or built["head"] not in HEADS:
        raise BadValue(
            f"{', '.join(own) or 'the network'} is code of your own: a bundle runs without it, so it cannot hold this"
            " network (transfer.load_run loads the run's folder)"
        )
    return Network(
        **{name: built[name] for name in ("backbone", "head", "pretrained", "init_from", "in_channels")},
        output_stride=built["output_stride"],
        num_parameters=sum(parameter.numel() for parameter in classifier.parameters()),
    )


def tensors_file(classifier: Classifier) -> bytes:
    """Return the content of `model.safetensors`."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    return save(tensors, {"format": "pt"})


def read_classifier(bundle: BundleFolder) -> Classifier:
    """Return the classifier of a bundle, in eval mode on the CPU, channels_last. Nothing is downloaded or imported.

    Raises:
        MissingData: `model.safetensors` is missing.
        DamagedFile: it was changed since it was written, or is of another network than `model.json` says.
    """
    record, path, shown = bundle.record, bundle.file(TENSORS), bundle.path / TENSORS
    network = record.network
    if any(map(is_import_path, (network.backbone, network.head))) or network.head not in HEADS:
        raise DamagedFile(f"{bundle.path}: its network is code, {network.backbone} with {network.head}: not imported")
    try:
        classifier = build_classifier(
            network.backbone,
            len(record.class_names),
            class_names=record.class_names,
            pretrained=network.pretrained,
            init_from=network.init_from,
            load_weights=False,
            head=network.head,
            in_channels=network.in_channels,
            output_stride=network.output_stride,
        )
    except BadValue as error:
        raise DamagedFile(f"{bundle.path}: its network cannot be built: {error}") from None
    state = read_checkpoint(path)
    check_numbers(state, shown)
    strict_load(classifier, state, source=str(shown))
    classifier.threshold = record.label_threshold
    return classifier.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # missing in its types
