"""Which formats of a bundle can be opened here, and opening one; nothing is imported but what it needs."""

from __future__ import annotations

from importlib.util import find_spec

from transfer.bundle.folder import BundleFolder
from transfer.bundle.formats import FORMATS, Model, open_format
from transfer.errors import BadValue, MissingData

SAFETENSORS = "safetensors"  # the network itself, in PyTorch; every bundle has it
INT8 = "-int8"
# The first that is installed is the default: all of them compute in float32.
_PREFERRED = ("openvino", "onnx", SAFETENSORS)


def list_formats(bundle: BundleFolder) -> list[str]:
    """Return the formats that a bundle holds, `safetensors` first."""
    return [SAFETENSORS, *(name for name in FORMATS if name in bundle.record.formats)]


def missing_package(format: str) -> str | None:
    """Return why a format cannot be opened here, as `openvino is not installed ...`; None if it can."""
    row = FORMATS.get(format)
    package = "torch" if row is None else row.package
    if find_spec(package) is not None:
        return None
    extra = "" if row is None or row.extra is None else f"; run: pip install {package}"
    return f"{package} is not installed{extra}"


def choose_format(bundle: BundleFolder, format: str | None) -> str:
    """Return the format to open: the one asked for, or the default one.

    Raises:
        BadValue: the bundle does not hold it.
        MissingData: its package is not installed, or that of none is.
    """
    held = list_formats(bundle)
    if format is not None:
        if format not in held:
            raise BadValue(f"`format`={format}: {bundle.path} does not hold it (it holds: {', '.join(held)})")
        if reason := missing_package(format):
            raise MissingData(f"`format`={format}: {reason}")
        return format
    found = [name for name in _PREFERRED if name in held and missing_package(name) is None]
    if not found:
        needed = [str(missing_package(name)) for name in _PREFERRED if name in held]
        raise MissingData(f"{bundle.path}: nothing here opens it: {'; '.join(needed)}")
    return found[0]


def open_model(bundle: BundleFolder, format: str, trusted: bool = False) -> Model:
    """Return the network in one of a bundle's formats, after comparing its files with their digests.

    Args:
        bundle: the bundle.
        format: one of `list_formats`.
        trusted: whether code in its file may be executed, which `torch` and `torchscript` need.

    Raises:
        MissingData, DamagedFile, BadValue: see `choose_format`, `BundleFolder.file` and `open_format`.
    """
    format = choose_format(bundle, format)
    if format == SAFETENSORS:
        from transfer.bundle.tensors import TorchNetwork, read_network

        return TorchNetwork(read_network(bundle), bundle.record.preprocessing)
    for name in FORMATS[format].files:
        bundle.file(name)
    return open_format(format, bundle.folder, bundle.record.preprocessing, trusted=trusted)
