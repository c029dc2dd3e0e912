"""Is a checkpoint file as it was written, and are its numbers a network's?"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping

import torch
import xxhash
from torch import Tensor

from transfer.errors import DamagedFile

# Header entry in the safetensors files written here: the digest of everything else in them.
DIGEST = "xxh3"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_archive(path: object, archive: zipfile.ZipFile) -> None:
    """Compare every record of a PyTorch file with the CRC-32 that is stored beside it, which torch does not read.

    Raises:
        DamagedFile: a record differs, or is compressed, which torch never does.
    """
    for record in archive.infolist():
        if record.compress_type != zipfile.ZIP_STORED:
            raise DamagedFile(f"{path}: its record {record.filename!r} is compressed: not a file that torch wrote")
    if (wrong := archive.testzip()) is not None:
        raise DamagedFile(
            f"{path}: damaged since it was written: its record {wrong!r} has another CRC-32; take the file from where"
            " it came, or from a backup"
        )


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return 64 bits, in hex, of tensors by name and a file's metadata, whatever their order."""
    entries = sorted((name, text) for name, text in metadata.items() if name != DIGEST)
    found = xxhash.xxh3_64(repr(entries).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def kind(tensor: Tensor) -> str:
    """Return what sort of numbers a tensor holds, where files of one network may differ in precision."""
    if tensor.layout != torch.strided:
        return str(tensor.layout)
    return "float" if tensor.dtype in _FLOATS else "integer" if tensor.dtype in _INTEGERS else str(tensor.dtype)


def check_numbers(state: Mapping[str, Tensor], source: object) -> None:
    """Check that a network's tensors are finite, and that no variance is negative.

    Raises:
        DamagedFile: one is not; the text names it.
    """
    for name, tensor in state.items():
        if kind(tensor) != "float" or not tensor.numel():
            continue
        low, high = torch.aminmax(tensor)
        if not (low.isfinite() and high.isfinite()):
            raise DamagedFile(f"{source}: NaN or infinity in {name}: the network's training diverged, or it is damaged")
        if name.endswith("running_var") and low < 0:
            raise DamagedFile(f"{source}: a negative variance in {name} ({float(low):.3g}): the file is damaged")
