"""The engines: a row each, without loading any."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from transfer.errors import MissingData, unknown_name

NUM_EXAMPLES = 64


@dataclass(frozen=True)
class EngineRow:
    """An engine.

    Attributes:
        name: what `--engine` calls it.
        precision: of weights and activations.
        package: the package that it needs besides torch, which computes on the CPU only; None for torch itself.
        extra: the extra of this project that installs it.
        num_examples: images that it is compared on, and that 8 bits are calibrated on.
    """

    name: str
    precision: str
    package: str | None = None
    extra: str | None = None
    num_examples: int = NUM_EXAMPLES


_ROWS = (
    EngineRow("torch", "float32"),
    EngineRow("torch-bf16", "bfloat16"),
    EngineRow("openvino", "float32", "openvino", "openvino"),
    EngineRow("openvino-bf16", "bfloat16", "openvino", "openvino"),
    EngineRow("openvino-int8", "int8", "nncf", "openvino", num_examples=300),  # as many as NNCF takes by default
    EngineRow("onnxruntime", "float32", "onnxruntime", "onnxruntime"),
)
ENGINES = {row.name: row for row in _ROWS}
CHOICES = ("auto", *ENGINES)


def check_engine(name: str) -> None:
    """Check that there is an engine of this name, or `auto`, and that its package is installed.

    Raises:
        BadValue: there is none.
        MissingData: its package is not installed.
    """
    if name not in CHOICES:
        raise unknown_name("engine", name, CHOICES)
    row = ENGINES.get(name)
    if row is not None and row.package is not None and find_spec(row.package) is None:
        install = f"run: pip install 'efficientnet-transfer[{row.extra}]'"
        raise MissingData(f"`engine`={name}: {row.package} is not installed; {install}")


def needs_cpu(name: str) -> bool:
    """Return whether an engine computes on the CPU only; `auto` computes where the network is."""
    return name in ENGINES and ENGINES[name].package is not None


def num_examples(name: str) -> int:
    """Return on how many images an engine, or those that `auto` tries, are compared."""
    return ENGINES[name].num_examples if name in ENGINES else NUM_EXAMPLES
