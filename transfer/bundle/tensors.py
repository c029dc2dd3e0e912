"""The network itself in a bundle: its tensors in safetensors, computed by PyTorch in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from transfer.bundle.folder import BundleFolder
from transfer.bundle.formats import Outputs
from transfer.bundle.member import Network
from transfer.bundle.record import TENSORS, Record
from transfer.errors import BadValue, DamagedFile
from transfer.images.decode import Pixels
from transfer.images.prepare import normalized, prepare_pixels
from transfer.networks.classifier import Classifier
from transfer.networks.ensemble import Ensemble
from transfer.networks.heads import HEADS
from transfer.networks.user_code import is_import_path
from transfer.preprocessing import Preprocessing
from transfer.weights.build import build_classifier
from transfer.weights.files import read_checkpoint, strict_load
from transfer.weights.integrity import check_numbers

_CHUNK = 32  # images that are in memory, prepared, at a time


class TorchNetwork:
    """Classifiers as a `Model`: in eval mode on the CPU, as they were trained and with nothing folded.

    Args:
        network: the classifiers.
        preprocessing: how images are prepared.
    """

    def __init__(self, network: Ensemble, preprocessing: Preprocessing) -> None:
        self.network, self.preprocessing = network, preprocessing

    @torch.inference_mode()
    def __call__(self, images: Sequence[Pixels]) -> Outputs:
        found = []
        for start in range(0, len(images), _CHUNK):
            pixels = np.stack([prepare_pixels(image, self.preprocessing) for image in images[start : start + _CHUNK]])
            batch = torch.from_numpy(normalized(pixels, self.preprocessing)).to(memory_format=torch.channels_last)
            found.append(self.network.forward_with_features(batch))
        return Outputs(*(torch.cat(parts).numpy() for parts in zip(*found, strict=True)))


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


def tensors_file(network: Ensemble) -> bytes:
    """Return the content of `model.safetensors`."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _stored(network).state_dict().items()}
    return save(tensors, {"format": "pt"})


def read_network(bundle: BundleFolder) -> Ensemble:
    """Return the classifiers of a bundle, in eval mode on the CPU, channels_last. Nothing is downloaded or imported.

    Raises:
        MissingData: `model.safetensors` is missing.
        DamagedFile: it was changed since it was written, or is of another network than `model.json` says.
    """
    record, path, shown = bundle.record, bundle.file(TENSORS), bundle.path / TENSORS
    try:
        classifiers = [_build(member.network, record) for member in record.members]
    except BadValue as error:
        raise DamagedFile(f"{bundle.path}: its network cannot be built: {error}") from None
    network = Ensemble(classifiers, [member.temperature for member in record.members], record.multilabel)
    state = read_checkpoint(path)
    check_numbers(state, shown)
    strict_load(_stored(network), state, source=str(shown))
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # missing in its types


def _build(network: Network, record: Record) -> Classifier:
    if any(map(is_import_path, (network.backbone, network.head))) or network.head not in HEADS:
        raise BadValue(f"it is code, {network.backbone} with {network.head}, which is not imported")
    return build_classifier(
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


def _stored(network: Ensemble) -> nn.Module:
    """Return the module whose tensors are in the file: a classifier alone keeps their usual names."""
    return network.members[0] if len(network.members) == 1 else network
