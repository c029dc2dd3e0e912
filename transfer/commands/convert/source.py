"""Reads the network to convert from a run's folder or from a checkpoint in any known key scheme."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transfer.errors import BadValue, DamagedFile, UserError
from transfer.images.prepare import read_preprocessing
from transfer.networks.function import FunctionVariant
from transfer.networks.heads import HEADS, build_head
from transfer.networks.registry import get_variant, is_without_weights
from transfer.networks.rows import Variant
from transfer.preprocessing import Preprocessing
from transfer.run_files import BEST, CONFIG, LAST
from transfer.runs.checkpoint import datamodule_state
from transfer.runs.predictor import load_run
from transfer.seen_images import KEY
from transfer.weights.build import build_classifier
from transfer.weights.files import (
    CANNOT_BE_READ_OFF,
    read_checkpoint,
    read_metadata,
    read_state_dict,
    recognise,
    strict_load,
)
from transfer.weights.integrity import check_numbers
from transfer.weights.key_names import to_own_keys
from transfer.weights.portable import PortableNetwork
from transfer.weights.reading import infer_variant
from transfer.weights.rows import FAMILIES, WeightsRow, contradictions, family_row, list_weights, named_row
from transfer.weights.seen import read_seen_images
from transfer.weights.start import resolve_start


def read_network(source: Path, family: str | None = None, allow_user_code: bool = False) -> PortableNetwork:
    """Return the network of a run's folder or of a checkpoint file.

    Args:
        source: a checkpoint, or a run's folder, which stands for its best checkpoint; with EMA, the averaged weights.
        family: what an unknown file was trained like: a name in FAMILIES, or of a row.
        allow_user_code: see `load_run`.

    Raises:
        MissingData: there is no such file or run.
        DamagedFile: it is not a network.
        BadValue: `family` is needed, or contradicts what is known.
    """
    if source.is_dir():
        return _read_run(source, BEST, family, allow_user_code)
    if source.name in (BEST, LAST) and (source.parent / CONFIG).is_file():
        return _read_run(source.parent, source.name, family, allow_user_code)
    return _read_file(source, family)


def _read_run(run_dir: Path, checkpoint: str, family: str | None, allow_user_code: bool) -> PortableNetwork:
    run = load_run(run_dir, checkpoint, allow_user_code=allow_user_code)
    variant = run.classifier.backbone.variant
    if isinstance(variant, FunctionVariant):
        raise BadValue(
            f"{run_dir}: {variant.name} is a function of your own: no other code base knows it, and a file of tensors"
            " does not describe it. The run's folder is what can be loaded (transfer.load_run)"
        )
    known = resolve_start(variant.name, run.config.pretrained, run.config.init_from).row or family_row(
        "tensorflow", variant
    )
    if known.backbone != variant.name:
        known = family_row(known.family, variant)
    return PortableNetwork(
        run.classifier.state_dict(),
        variant,
        _resolve_like(run_dir, variant, known, family),
        run.preprocessing,
        run.config.head,
        run.class_names,
        run.config.data.multilabel,
        run.data.get(KEY),
    )


def _read_file(path: Path, family: str | None) -> PortableNetwork:
    tensors = read_state_dict(path)
    check_numbers(tensors, path)
    named = read_metadata(path).get("backbone") or _trained_backbone(path)
    # Tensors do not tell how a network that is in no table was scaled, nor are there public ones of other families.
    variant = get_variant(named) if is_without_weights(named) else infer_variant(tensors)
    state = to_own_keys(tensors, variant)
    known = recognise(path, variant)
    like = _resolve_like(path, variant, known.row if known else None, family)
    notes = _read_header(path, variant) if known and known.own_file else _read_training_notes(path)
    is_grey = state["backbone.stem.conv.weight"].shape[1] == 1
    usual = like.preprocessing.grey() if is_grey else like.preprocessing
    network = PortableNetwork(
        state,
        variant,
        like,
        read_preprocessing(notes["preprocessing"], path) if "preprocessing" in notes else usual,
        notes.get("head") or _infer_head(path, state, variant),
        tuple(notes["class_names"]) if "class_names" in notes else None,
        notes.get("multilabel"),
        None if (seen := read_seen_images(path)) is None else seen.to_text(),
        assumes_preprocessing="preprocessing" not in notes and like.name in FAMILIES,
    )
    _check_tensors(network, path)
    return network


def _trained_backbone(path: Path) -> str:
    """Return the name of the backbone that a checkpoint of training was built with; empty where none is known."""
    arguments = read_checkpoint(path).get("hyper_parameters") if path.suffix == ".ckpt" else None
    name = arguments.get("backbone") if isinstance(arguments, Mapping) else None
    return name if isinstance(name, str) else ""


def _read_header(path: Path, variant: Variant) -> dict[str, Any]:
    header = read_metadata(path)
    if header.get("backbone", variant.name) != variant.name:
        raise DamagedFile(
            f"{path}: its header says backbone {header['backbone']!r}, its tensors are a {variant.name}'s"
        )
    notes: dict[str, Any] = {"head": header["head"]} if "head" in header else {}
    for name in ("preprocessing", "class_names", "multilabel"):
        if name in header:
            try:
                notes[name] = json.loads(header[name])
            except ValueError:
                raise DamagedFile(f"{path}: {name} in its header is not JSON: {header[name][:60]!r}") from None
    for name, kind in (("class_names", list), ("multilabel", bool)):
        if name in notes and not isinstance(notes[name], kind):
            raise DamagedFile(f"{path}: {name} in its header is no {kind.__name__}: {header[name][:60]!r}")
    return notes


def _read_training_notes(path: Path) -> dict[str, Any]:
    """Return what a checkpoint of this project says of its data: our datamodule's state, else what the module knows."""
    if path.suffix != ".ckpt":
        return {}
    content = read_checkpoint(path)
    try:
        data = datamodule_state(content, path)
    except UserError:
        return _read_module_notes(content)
    names = [name for name in Preprocessing.__dataclass_fields__ if name in data]
    notes = {"preprocessing": {name: data[name] for name in names}, "class_names": data["class_names"]}
    return {**notes, "multilabel": data.get("multilabel")}


def _read_module_notes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a `TransferModule` wrote into a checkpoint; nothing if another module did."""
    if not {"preprocessing", "class_names"} <= content.keys():
        return {}
    notes = {name: content[name] for name in ("preprocessing", "class_names") if content[name] is not None}
    return {**notes, "multilabel": content.get("hyper_parameters", {}).get("multilabel")}


def _resolve_like(source: Path, variant: Variant, known: WeightsRow | None, family: str | None) -> WeightsRow:
    """Return the row or family that a network was trained like, from what is known of it and what the user says."""
    if family is not None:
        try:
            given = named_row(family, variant)
        except UserError as error:
            raise BadValue(f"`family`={family}: {error}") from None
        if known is None:
            return given
        if wrong := contradictions(given, known):
            raise BadValue(
                f"`family`={family}: {source} is trained like {known.name}; that would mean {', '.join(wrong)}:"
                " leave `family` out"
            )
    if known is not None:
        return known
    width = max(map(len, FAMILIES))
    families = "\n".join(f"  {name:{width}}  {meaning}" for name, meaning in FAMILIES.items())
    raise BadValue(
        f"{source}: an unknown file. {CANNOT_BE_READ_OFF}, and a wrong guess changes every output without an error.\n"
        f"Say what it was trained like with `family`=NAME, who wrote such files:\n{families}\n"
        f"or a row of {variant.name}: {', '.join(list_weights(variant.name)) or 'none'}"
    )


def _infer_head(path: Path, state: Mapping[str, Tensor], variant: Variant) -> str | None:
    """Return the name of the head that has such tensors; None for a backbone alone."""
    found = {key.removeprefix("head.") for key in state if key.startswith("head.")}
    if not found:
        return None
    for name in HEADS:
        with torch.device("meta"):
            if set(build_head(name, variant.num_features, 1, 0.0).state_dict()) == found:
                return name
    raise DamagedFile(
        f"{path}: no known head has the tensors {', '.join(sorted(found)[:4])} (known: {', '.join(HEADS)}):"
        " give the run's folder, which knows its head"
    )


def _check_tensors(network: PortableNetwork, path: Path) -> None:
    """Compare names and shapes with the network's, without copying anything."""
    known_head = network.head in HEADS
    with torch.device("meta"):
        expected = build_classifier(
            network.variant.name,
            max(network.num_classes, 1),
            head=str(network.head) if known_head else "linear",
            in_channels=network.in_channels,
        )
    state = {key: tensor.to("meta") for key, tensor in network.state.items()}
    if known_head:
        return strict_load(expected, state, source=str(path))
    backbone = {key.removeprefix("backbone."): t for key, t in state.items() if not key.startswith("head.")}
    strict_load(expected.backbone, backbone, source=str(path))
