"""The format `torchscript`: the network traced for runtimes of C++ and mobile, which takes prepared pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from transfer.bundle.formats import FormatRow
from transfer.bundle.network import PixelNetwork
from transfer.bundle.torch_format import TorchModel
from transfer.inference.packages import refusal
from transfer.preprocessing import Preprocessing

_DERIVED = ("version", "byteorder", ".data/")  # records that PyTorch's writer adds by itself


def write_torchscript(row: FormatRow, network: PixelNetwork, folder: Path) -> None:
    """Write the file of the format; see `transfer.bundle.formats.write_format`.

    Raises:
        BadValue: the network cannot be traced.
    """
    network.requires_grad_(False)  # parameters become constants

    def compute(pixels: Tensor) -> tuple[Tensor, Tensor]:  # modules get names that PyTorch numbers on in a process
        return network.forward(pixels)

    try:
        with _deprecations_unsaid():
            traced = torch.jit.trace(compute, network.examples, check_trace=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # a network of the user's own raises what it likes
        raise refusal(f"`format`={row.name}", network.classifier, error) from error
    (folder / row.files[0]).write_bytes(_without_sources(traced.save_to_buffer()))


def open_torchscript(path: Path, preprocessing: Preprocessing) -> TorchModel:
    """Return the format's file, opened by torch.jit.load, which executes the program in it.

    Raises:
        MissingData, DamagedFile: see `TorchModel`.
    """

    def load(file: io.BytesIO) -> nn.Module:
        with _deprecations_unsaid():
            return torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]

    return TorchModel(path, preprocessing, load)


@contextmanager
def _deprecations_unsaid() -> Iterator[None]:
    """Keep PyTorch from telling the user that TorchScript, which he asked for, is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


def _without_sources(archive: bytes) -> bytes:
    """Return a TorchScript archive without its notes of where on this machine the code lies."""
    reader, content = torch._C.PyTorchFileReader(io.BytesIO(archive)), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(content)
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and not name.startswith(_DERIVED):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return content.getvalue()
