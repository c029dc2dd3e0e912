"""The engines: a row each, without loading any."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineRow:
    """An engine.

    Attributes:
        name: what `--engine` calls it.
        precision: of weights and activations; sums, pooling and heads are float32 everywhere.
        module: the module that it needs besides torch; None for torch itself.
        extra: the extra of this project that installs it.
    """

    name: str
    precision: str
    module: str | None = None
    extra: str | None = None


_ROWS = (EngineRow("torch", "float32"), EngineRow("torch-bf16", "bfloat16"))
ENGINES = {row.name: row for row in _ROWS}
CHOICES = ("auto", *ENGINES)
