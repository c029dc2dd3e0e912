"""Checkpoint files: tell which one it is, read it without executing anything, load it strictly."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from transfer.errors import UserError
from transfer.weights import FAMILIES, WEIGHTS, WeightsRow, list_weights

# Header entry of the safetensors files that scripts/convert.py writes: the row or family that they were trained like.
TRAINED_LIKE = "trained_like"


def identify_file(path: Path, row: WeightsRow, row_was_named: bool) -> Path:
    """`path`, once it is clear that `row` describes it.

    A file whose sha256 is in the table must be that row, and a file that this project converted says what it is. Of any
    other file nobody but the user knows what it was trained with, so the row or the family must have been named.

    Raises:
        UserError: the file is another row's, or nobody named the row.
    """
    sha256 = file_sha256(path)
    trained_like = known_row(sha256)
    known = trained_like.name if trained_like else read_metadata(path).get(TRAINED_LIKE)
    if known is not None and known != row.name:
        raise UserError(f"{path} is {known}, not {row.name}: give pretrained={known!r}")
    if known is None and not row_was_named:
        raise UserError(
            f"{path}: an unknown file (sha256 {sha256[:16]}...). Padding, BatchNorm epsilon and normalisation cannot be"
            f" read off it: say what it was trained like with pretrained=NAME, a family ({', '.join(FAMILIES)})"
            f" or a row (for {row.backbone}: {', '.join(list_weights(row.backbone))})"
        )
    return path


def known_row(sha256: str) -> WeightsRow | None:
    """The row whose file has this hash."""
    rows = (row for row in WEIGHTS.values() if row.sha256 is not None and sha256.startswith(row.sha256))
    return next(rows, None)


def file_sha256(path: Path) -> str:
    """Hex digest of a file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"weights file {path}: {os.strerror(error.errno or 0)}") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a safetensors, PyTorch or NumPy (`.npz`) file; nothing in it is executed.

    Raises:
        UserError: not such a file, or it holds more than tensors and plain types.
    """
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        else:
            content = torch.load(path, "cpu", weights_only=True)
    except (
        BadZipFile,
        TypeError,
        SafetensorError,
        UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: not a safetensors, npz or weights-only PyTorch file ({reason})") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected a dictionary, found {type(content).__name__}")
    return dict(content)


def read_metadata(path: Path) -> dict[str, str]:
    """The notes in a safetensors file's header; empty for any other file."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint file; Lightning and other training checkpoints are unwrapped (`state_dict`).

    Raises:
        UserError: see `read_checkpoint`, or it holds anything but tensors.
    """
    content = read_checkpoint(path)
    tensors = content["state_dict"] if isinstance(content.get("state_dict"), Mapping) else content
    if not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: expected a dictionary of tensors")
    return dict(tensors)


def strict_load(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies `state` into `module`; every name and shape must agree.

    Raises:
        UserError: they do not; the names that only one side has are listed, `-` for missing from the source.
    """
    own = module.state_dict()
    differences = [f"  - {key} {tuple(own[key].shape)}" for key in own if key not in state]
    differences += [f"  + {key} {tuple(state[key].shape)}" for key in state if key not in own]
    differences += [
        f"  ! {key} {tuple(state[key].shape)} in the source, {tuple(own[key].shape)} in the network"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if differences:
        shown = differences[:20] + ([f"  ... and {len(differences) - 20} more"] if len(differences) > 20 else [])
        raise UserError(
            f"{source} does not fit the network (- missing from the source, + unknown to the network, ! shape):\n"
            + "\n".join(shown)
        )
    module.load_state_dict(dict(state))
