"""The format `torch`: the network exported by torch.export, which takes prepared pixels."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from transfer.bundle.formats import FormatRow, Outputs
from transfer.bundle.network import PixelNetwork
from transfer.errors import DamagedFile
from transfer.files import open_regular
from transfer.images.decode import Pixels
from transfer.images.prepare import prepare_pixels
from transfer.inference.packages import CHUNK, last_words, refusal
from transfer.preprocessing import Preprocessing


def write_torch(row: FormatRow, network: PixelNetwork, folder: Path) -> None:
    """Write the file of the format; see `transfer.bundle.formats.write_format`.

    Raises:
        BadValue: the network cannot be exported.
    """
    try:
        program = torch.export.export(network, (network.examples,), dynamic_shapes=({0: torch.export.Dim("N")},))
    except Exception as error:  # a network of the user's own raises what it likes
        raise refusal(f"`format`={row.name}", network.classifier, error) from error
    for node in program.graph.nodes:  # where on this machine the code lies
        node.meta.pop("stack_trace", None)
    torch.export.save(program, folder / row.files[0])


def open_torch(path: Path, preprocessing: Preprocessing) -> TorchModel:
    """Return the format's file, opened by torch.export.load, which can execute code in it.

    Raises:
        MissingData, DamagedFile: see `TorchModel`.
    """
    return TorchModel(path, preprocessing, lambda file: torch.export.load(file).module())


class TorchModel:
    """A network in a file of PyTorch's.

    Args:
        path: the file.
        preprocessing: how images are prepared.
        load: content of the file -> network.

    Raises:
        MissingData: there is no file.
        DamagedFile: it is no exported network.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing, load: Callable[[io.BytesIO], nn.Module]) -> None:
        self._preprocessing = preprocessing
        with open_regular(path) as file:
            encoded = io.BytesIO(file.read())
        try:
            self._network = load(encoded)
        except Exception as error:  # a damaged archive raises what its parts do
            raise DamagedFile(f"{path}: torch cannot open it: {last_words(error)}") from None

    @torch.no_grad()
    def __call__(self, images: Sequence[Pixels]) -> Outputs:
        pixels = [prepare_pixels(image, self._preprocessing) for image in images]
        found = [self._network(torch.from_numpy(np.stack(pixels[i : i + CHUNK]))) for i in range(0, len(pixels), CHUNK)]
        return Outputs(*(torch.cat(parts).numpy() for parts in zip(*found, strict=True)))
