"""Checkpoint files: identify them, read them without executing code, and load them strictly."""

from __future__ import annotations

import argparse
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from transfer.errors import BadValue, DamagedFile, UserError, printable
from transfer.files import file_sha256, open_regular
from transfer.weights.first_seen import first_sha256
from transfer.weights.integrity import DIGEST, check_archive, digest, kind
from transfer.weights.key_names import find_prefix
from transfer.weights.rows import FAMILIES, WEIGHTS, WeightsRow, contradictions, named_row

if TYPE_CHECKING:
    from transfer.networks.rows import Variant

# Header entry in the safetensors files of `convert`: the row or family that describes how they were trained.
TRAINED_LIKE = "trained_like"
CANNOT_BE_READ_OFF = "Padding, BatchNorm epsilon and normalisation cannot be read off it"


@dataclass(frozen=True)
class KnownAs:
    """What a file is known to be.

    Attributes:
        row: the row that describes the file.
        own_file: whether it is a file of the user that was trained like the row, rather than the row's file.
    """

    row: WeightsRow
    own_file: bool

    def __str__(self) -> str:
        return f"a file of your own, trained like {self.row.name}" if self.own_file else f"the file of {self.row.name}"


def recognise(path: Path, variant: Variant) -> KnownAs | None:
    """Return what a file is, by its sha256 or the header that `convert` wrote; None if unknown.

    Args:
        path: the file.
        variant: variant whose tensors the file holds.

    Raises:
        UserError: the file does not exist, or its header has an unknown name.
    """
    row = known_row(file_sha256(path))
    if row is not None:
        return KnownAs(row, own_file=False)
    name = read_metadata(path).get(TRAINED_LIKE)
    if name is None:
        return None
    try:
        return KnownAs(named_row(name, variant), own_file=True)
    except UserError as error:
        raise BadValue(f"{path}: its header says {TRAINED_LIKE}={name!r}, but: {error}") from None


def identify_file(path: Path, row: WeightsRow, variant: Variant, row_was_named: bool) -> Path:
    """Return `path` after checking that `row` describes the file.

    A known file must not contradict the row. For any other file the user must name a family, because its padding,
    BatchNorm epsilon and normalisation cannot be read off it.

    Args:
        path: the file.
        row: row that should describe the file.
        variant: variant whose tensors the file holds.
        row_was_named: whether the user named the row.

    Raises:
        UserError: the file belongs to another row, or the user named no family.
    """
    known = recognise(path, variant)
    if known is not None:
        if wrong := contradictions(row, known.row):
            raise BadValue(
                f"{path} is {known}; {row.name} would mean {', '.join(wrong)}: use `pretrained`={known.row.name!r}"
            )
        return path
    if row.name in WEIGHTS:
        named = f" It is not the file of {row.name}, which has another sha256." if row_was_named and row.sha256 else ""
        raise BadValue(
            f"{path}: an unknown file.{named} {CANNOT_BE_READ_OFF}: say how it was trained with"
            f" `pretrained`=FAMILY ({', '.join(FAMILIES)}), or record it in a copy: efficientnet-transfer convert"
            f" {path} NEW.safetensors --to own --family NAME"
        )
    return path


def known_row(sha256: str) -> WeightsRow | None:
    """Return the row whose file has this sha256, or begins like it and is the first of that row seen here; or None."""
    rows = (row for row in WEIGHTS.values() if row.sha256 is not None and sha256.startswith(row.sha256))
    return next((row for row in rows if row.url is None or first_sha256(row.url) in (None, sha256)), None)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a safetensors, PyTorch or NumPy (`.npz`) file without executing any code in it.

    Raises:
        UserError: the file is of another kind, holds more than tensors and plain types, or was damaged since it was
            written.
    """
    start = _read_start(path)
    try:
        if _is_safetensors(start):
            content: Any = load_file(path)
            _check_digest(path, content)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        else:
            # Training scripts save their options beside the tensors; a Namespace only holds values.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, "cpu", weights_only=True)
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    check_archive(path, archive)
    except UserError:
        raise
    except Exception as error:  # on arbitrary bytes the readers raise errors of any type
        raise DamagedFile(f"{path}: not a safetensors, npz or PyTorch checkpoint ({_reason(start, error)})") from None
    if not isinstance(content, Mapping):
        raise DamagedFile(f"{path}: expected a dictionary, found {type(content).__name__}")
    return dict(content)


def _check_digest(path: Path, tensors: Mapping[str, Tensor]) -> None:
    metadata = read_metadata(path)
    if DIGEST in metadata and metadata[DIGEST] != digest(tensors, metadata):
        raise DamagedFile(f"{path}: damaged since it was written: its content is not what its header states")


def _read_start(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(64)


def _is_safetensors(start: bytes) -> bool:
    """Return whether a file begins like safetensors: eight bytes with the header's length, then the header as JSON."""
    return start[8:9] == b"{"


def _reason(start: bytes, error: Exception) -> str:
    if not start:
        return "it is empty"
    if start.lstrip().startswith(b"<"):
        return "it is a web page"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run git lfs pull in its repository"
    text = str(error)
    # torch and NumPy refuse to execute code with these words, and then advise how to allow it.
    if any(
        sign in text for sign in ("Unsupported global", "Unsupported class", "unsafe class", "Object arrays cannot")
    ):
        return (
            "it holds Python objects, which could execute code; save only the tensors where it was created:"
            " torch.save(model.state_dict(), FILE)"
        )
    advises = isinstance(error, UnpicklingError) or "allow_pickle" in text or "weights_only" in text
    detail = "" if advises else printable(text.strip().partition("\n")[0])
    return "it is damaged or of another kind" + (f": {detail}" if detail else "")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file; empty for any other file."""
    if not _is_safetensors(_read_start(path)):
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError:
        return {}


# Where training scripts keep the tensors: timm, torchvision's references, Lightning and common habits. Averaged ones
# come first, as in timm's own loader.
CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model")
# Prefixes that wrappers add to every name: DataParallel, torch.compile, AveragedModel, an attribute.
WRAPPERS = ("module.", "_orig_mod.", "model.")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file by name, without the prefixes of wrappers.

    A training checkpoint is unwrapped; if it also has averaged weights, these are taken, with a warning. If a training
    module holds more than an EfficientNet (under `net.`, `backbone.`, `encoder.` or similar), only the network's
    tensors are returned, with a warning.

    Raises:
        UserError: see `read_checkpoint`; or the file holds no tensors by name.
    """
    return find_tensors(read_checkpoint(path), path)


def find_tensors(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors in the content of a checkpoint file; see `read_state_dict`."""
    found = [name for name in CONTAINERS if content.get(name) and isinstance(content[name], Mapping)]
    if len(found) > 1:
        warnings.warn(f"{path} holds {', '.join(found)}: {found[0]} is used", stacklevel=2)
    tensors = dict(content[found[0]] if found else content)
    tensors.pop("n_averaged", None)  # AveragedModel's counter
    if not tensors or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()):
        shown = printable(", ".join(map(str, list(content)[:5]))) or "nothing"
        raise DamagedFile(
            f"{path}: expected tensors by name, or a training checkpoint with one of {', '.join(CONTAINERS)};"
            f" found {shown}"
        )
    while wrapper := next((w for w in WRAPPERS if all(key.startswith(w) for key in tensors)), None):
        tensors = {key.removeprefix(wrapper): tensor for key, tensor in tensors.items()}
    return _only_network(tensors, path)


def _only_network(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors of the attribute that holds a training module's network, with a warning about any others."""
    prefix = find_prefix(tensors)
    others = [key for key in tensors if not key.startswith(prefix)]
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        warnings.warn(
            f"{path}: the network's tensors are called {prefix}*; {len(others)} other tensors are left out: {shown}",
            stacklevel=3,
        )
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def strict_load(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `module`; every name and shape must match.

    Args:
        module: the module to fill.
        state: tensors by name.
        source: where the tensors come from, for the message.

    Raises:
        UserError: see `check_fit`.
    """
    check_fit(module, state, source)
    module.load_state_dict(dict(state))


def check_fit(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Check that every name, shape and kind of number of `state` matches `module`.

    Args:
        module: the module.
        state: tensors by name.
        source: where the tensors come from, for the message.

    Raises:
        UserError: something differs; the message lists it, with `-` for names missing from the source.
    """
    own = module.state_dict()
    differences = [f"  - {key} {tuple(own[key].shape)}" for key in own if key not in state]
    differences += [f"  + {key} {tuple(state[key].shape)}" for key in state if key not in own]
    differences += [
        f"  ! {key} {tuple(state[key].shape)} in the source, {tuple(own[key].shape)} in the network"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    differences += [
        f"  ! {key} of {kind(state[key])} numbers in the source, {kind(own[key])} in the network"
        for key in own
        if key in state and kind(state[key]) != kind(own[key])
    ]
    if differences:
        shown = differences[:20] + ([f"  ... and {len(differences) - 20} more"] if len(differences) > 20 else [])
        raise DamagedFile(
            f"{source} does not fit the network (- missing from the source, + unknown to the network, ! shape or"
            " kind):\n" + "\n".join(shown)
        )
