"""The pictures that a run keeps for its report: photos worth a look, class maps, a batch as the network saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from datamodules.images.pictures import open_picture
from datamodules.images.transforms import apply_transform, seed_transform
from transfer.errors import MissingData, UserError
from transfer.images.prepare import build_crop, prepare_pixels
from transfer.report.answers import Answers
from transfer.report.photos import SIDE, Facts, Photos, encode_jpeg, shrink
from transfer.runs.class_maps import ClassMaps, explain_class
from transfer.runs.overlay import overlay
from transfer.runs.test_record import read_predictions, text_array
from transfer.training.mixing import draw_mix

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.datamodule import DataModule
    from transfer.config.schema import LossConfig
    from transfer.images.decode import Pixels
    from transfer.images.depth import Decoding
    from transfer.networks.classifier import Classifier

_BATCH = 12  # training images
_FEWEST_CELLS = 9  # of a class map that still shows a place


@dataclass
class _Kept:
    """What is kept of the split that is looked at."""

    photos: dict[int, bytes] = field(default_factory=dict)
    maps: dict[int, bytes] = field(default_factory=dict)
    map_classes: dict[str, str] = field(default_factory=dict)
    method: str = ""
    remarks: list[str] = field(default_factory=list)


def keep_photos(run_dir: Path, classifier: Classifier, data: DataModule, loss: LossConfig) -> None:
    """Write the pictures into a finished run's folder; of streamed data there are none.

    Args:
        run_dir: the folder.
        classifier: the network whose answers it holds.
        data: its images.
        loss: says how the images of a batch are mixed.
    """
    if data.stream:
        return
    answers = _read_answers(run_dir, 0.5 if classifier.threshold is None else classifier.threshold)
    kept = _Kept() if answers is None else _keep_split(answers, classifier, data)
    labels = data.dataset.split("train").labels
    chosen = np.random.default_rng(data.seed).permutation(len(labels))[:_BATCH].tolist()
    facts = Facts(
        split=answers.split if answers else None,
        map_method=kept.method,
        map_classes=kept.map_classes,
        batch_labels=[_in_words(labels[index], data.class_names) for index in chosen],
        remarks=kept.remarks,
    )
    Photos(facts, kept.photos, kept.maps, _seen_batch(data, chosen, loss)).save(run_dir)


def _read_answers(run_dir: Path, threshold: float) -> Answers | None:
    """Return the answers whose photos the page shows: those on val, or else on test."""
    for split in ("val", "test"):
        try:
            return Answers(split, read_predictions(run_dir, split), threshold)
        except MissingData:
            continue
    return None


def _keep_split(answers: Answers, classifier: Classifier, data: DataModule) -> _Kept:
    """Return the photos that are shown, with class maps of the worst and the most unsure ones."""
    split, kept, crop = data.decoded_split(answers.split), _Kept(), build_crop(data.preprocessing)
    places = {name: place for place, name in enumerate(text_array(split.image_names()).tolist())}
    about = {index: answers.doubt(index) for index in answers.unsure()}
    about |= {index: answers.mistake(index) for index in answers.worst()}
    inputs: dict[int, Pixels] = {}
    pictures: dict[int, Image.Image] = {}
    for index in answers.photos() if answers.saved.paths else ():
        name = answers.saved.paths[index]
        try:
            pixels = _pixels(split.encoded(places[name]), split.decoding, max(SIDE, crop.resize.size))
        except (OSError, UserError) as error:
            kept.remarks.append(f"{name}: {error}")
            continue
        pictures[index] = shrink(pixels)
        kept.photos[index] = encode_jpeg(pictures[index])
        if index in about:
            inputs[index] = prepare_pixels(pixels, data.preprocessing)
    for label in sorted({about[index] for index in inputs}):
        group = [index for index in inputs if about[index] == label]
        try:
            found = _explain(classifier, data, [inputs[index] for index in group], label)
        except UserError as error:
            kept.remarks.append(f"No class maps: {error}")
            break
        if found.maps[0].numel() < _FEWEST_CELLS:
            kept.remarks.append(f"No class maps: at {data.preprocessing.image_size} px they would be a few cells.")
            break
        kept.method = found.method
        for index, class_map in zip(group, found.maps.float().cpu().numpy(), strict=True):
            photo = pictures[index]
            kept.maps[index] = encode_jpeg(overlay(photo, class_map, crop.part(photo.height, photo.width)))
            kept.map_classes[str(index)] = data.class_names[label]
    return kept


def _explain(classifier: Classifier, data: DataModule, inputs: Sequence[Pixels], label: int) -> ClassMaps:
    """Return the maps of one class of prepared images."""
    weight = next(classifier.parameters())
    images = data.normalize(torch.from_numpy(np.stack(inputs)).to(weight.device))
    return explain_class(classifier.eval(), images.to(weight.dtype), label)


def _seen_batch(data: DataModule, chosen: Sequence[int], loss: LossConfig) -> list[bytes]:
    """Return these training images as the network sees them: augmented, normalised, mixed, and made visible again."""
    split, transform = data.decoded_split("train"), data.train_transform
    images = []
    for position, index in enumerate(chosen):
        seed_transform(transform, data.seed + position)
        images.append(apply_transform(transform, open_picture(split.encoded(index), split.decoding)))
    batch = data.normalize(torch.from_numpy(np.stack([np.asarray(image) for image in images])))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(data.seed)
        mix = draw_mix(batch, loss.mixup_alpha, loss.cutmix_alpha)
    batch = batch if mix is None else mix.blend(batch)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.preprocessing.mean, data.preprocessing.std))
    visible = ((batch * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return [encode_jpeg(shrink(image.expand(-1, -1, 3).numpy())) for image in visible]


def _pixels(encoded: bytes | Path, decoding: Decoding, side: int) -> Pixels:
    """Return a whole photo, perhaps at a reduced scale that leaves both sides at least so many pixels."""
    picture = open_picture(encoded, decoding)
    return picture.crop((0, 0, picture.width, picture.height), side)


def _in_words(label: Tensor, class_names: Sequence[str]) -> str:
    """Return the classes of an image: of its index, or its multi-hot vector."""
    indices = label.nonzero().flatten().tolist() if label.ndim else [int(label)]
    return ", ".join(class_names[index] for index in indices) or "no label"
